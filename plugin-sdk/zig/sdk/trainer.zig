//! Rewards of trainer in Zig: the canonical ABI of the contract's world `reward`, and what an
//! author needs. A plugin declares `about`, `columns`, `Options` and `score`, and calls
//! `exportReward(@This())` at comptime.

const std = @import("std");

/// What a plugin is.
pub const About = struct {
    /// Lower-case letters, digits and dashes.
    name: []const u8,
    version: []const u8 = "0.1.0",
    /// One sentence.
    summary: []const u8 = "",
    /// JSON Schema of the options, or "".
    options_schema: []const u8 = "",
};

pub const Kind = enum(u8) { utf8, int64, float64, boolean, binary, json };

/// A column that is read.
pub const Column = struct { name: []const u8, kind: Kind = .utf8, optional: bool = false };

/// The score of a row; no value is no opinion.
pub const Score = struct { value: ?f64 = null, parts: []const Part = &.{} };

/// A named share of a score, for the log.
pub const Part = struct { name: []const u8, value: f64 };

pub const Level = enum(i32) { debug, info, warn, err };

extern "trainer:plugin/host@0.1.0" fn log(level: i32, ptr: [*]const u8, len: usize) void;

/// A line for the run's log.
pub fn say(level: Level, message: []const u8) void {
    log(@intFromEnum(level), message.ptr, message.len);
}

const Text = extern struct {
    ptr: [*]const u8,
    len: usize,

    fn of(text: []const u8) Text {
        return .{ .ptr = if (text.len == 0) "" else text.ptr, .len = text.len };
    }
    fn slice(self: Text) []const u8 {
        return self.ptr[0..self.len];
    }
};

const RawColumn = extern struct {
    name: Text,
    kind: u8,
    values: extern struct { ptr: *const anyopaque, len: usize },
    nulls: extern struct { ptr: [*]const u32, len: usize },
};

/// One row. A getter answers null where there is no value, no such column, or one of another kind.
pub const Row = struct {
    columns: []const RawColumn,
    index: u32,

    fn value(self: Row, comptime T: type, name: []const u8, kind: Kind) ?T {
        for (self.columns) |column| {
            if (!std.mem.eql(u8, column.name.slice(), name)) continue;
            if (column.kind != @intFromEnum(kind)) return null;
            for (column.nulls.ptr[0..column.nulls.len]) |null_row| {
                if (null_row == self.index) return null;
                if (null_row > self.index) break;
            }
            const values: [*]const T = @ptrCast(@alignCast(column.values.ptr));
            return values[self.index];
        }
        return null;
    }

    pub fn text(self: Row, name: []const u8) ?[]const u8 {
        const found = self.value(Text, name, .utf8) orelse return null;
        return found.slice();
    }
    pub fn json(self: Row, name: []const u8) ?[]const u8 {
        const found = self.value(Text, name, .json) orelse return null;
        return found.slice();
    }
    pub fn int(self: Row, name: []const u8) ?i64 {
        return self.value(i64, name, .int64);
    }
    pub fn float(self: Row, name: []const u8) ?f64 {
        return self.value(f64, name, .float64);
    }
};

// Everything of one call lives here, and goes when the host has read the answer.
var arena: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);
var for_ever: std.heap.ArenaAllocator = .init(std.heap.wasm_allocator);

fn gone() noreturn {
    @trap();
}

fn create(comptime T: type, value: T) *T {
    const made = arena.allocator().create(T) catch gone();
    made.* = value;
    return made;
}

fn realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) ?[*]u8 {
    const made = arena.allocator().rawAlloc(size, .fromByteUnits(alignment), 0) orelse gone();
    if (old) |from| @memcpy(made[0..old_size], from[0..old_size]);
    return made;
}

fn afterwards(_: *anyopaque) callconv(.c) void {
    _ = arena.reset(.retain_capacity);
}

const List = extern struct {
    ptr: *const anyopaque,
    len: usize,

    /// An empty slice may point anywhere; the host wants an address within memory.
    fn of(items: anytype) List {
        return .{ .ptr = if (items.len == 0) &nothing else items.ptr, .len = items.len };
    }
};
const nothing: u64 = 0;
const RawNeed = extern struct { name: Text, kind: u8, optional: bool };
const RawReads = extern struct { columns: List, whole_rows: bool = false };
const RawInfo = extern struct {
    name: Text,
    version: Text,
    summary: Text,
    reads: RawReads,
    schema: Text,
    deterministic: bool = true,
};
const RawError = extern struct { tag: u8 = 0, message: Text };
const RawPart = extern struct { name: Text, value: f64 };
const RawScore = extern struct { has_value: bool, value: f64, parts: List };

fn Answer(comptime T: type) type {
    return extern struct { is_error: bool, value: extern union { ok: T, fault: RawError } };
}

fn reads(comptime columns: []const Column) RawReads {
    const needs = arena.allocator().alloc(RawNeed, columns.len) catch gone();
    for (needs, columns) |*need, column| {
        need.* = .{
            .name = Text.of(column.name),
            .kind = @intFromEnum(column.kind),
            .optional = column.optional,
        };
    }
    return .{ .columns = List.of(needs) };
}

/// Makes `P` the component's reward: `P.about`, `P.columns`, `P.Options` (a struct of options with
/// defaults) and `P.score(row, options, allocator)`, of which the allocator lives for the call.
pub fn exportReward(comptime P: type) void {
    const Glue = struct {
        var options: P.Options = .{};

        fn describe() callconv(.c) *RawInfo {
            return create(RawInfo, .{
                .name = Text.of(P.about.name),
                .version = Text.of(P.about.version),
                .summary = Text.of(P.about.summary),
                .reads = reads(P.columns),
                .schema = Text.of(P.about.options_schema),
            });
        }

        fn configure(ptr: [*]const u8, len: usize, seed: u64) callconv(.c) *Answer(RawReads) {
            _ = seed;
            const text = for_ever.allocator().dupe(u8, ptr[0..len]) catch gone();
            const parsed = std.json.parseFromSliceLeaky(P.Options, for_ever.allocator(), text, .{});
            options = parsed catch |fault| return create(Answer(RawReads), .{
                .is_error = true,
                .value = .{ .fault = .{ .message = Text.of(@errorName(fault)) } },
            });
            return create(Answer(RawReads), .{
                .is_error = false,
                .value = .{ .ok = reads(P.columns) },
            });
        }

        fn score(
            rows: u32,
            columns: [*]const RawColumn,
            num_columns: usize,
            whole: [*]const Text,
            num_whole: usize,
        ) callconv(.c) *Answer(List) {
            _ = whole;
            _ = num_whole;
            const scores = arena.allocator().alloc(RawScore, rows) catch gone();
            for (scores, 0..) |*own, index| {
                const row: Row = .{ .columns = columns[0..num_columns], .index = @intCast(index) };
                const made = P.score(row, options, arena.allocator());
                const parts = arena.allocator().alloc(RawPart, made.parts.len) catch gone();
                for (parts, made.parts) |*raw, part| {
                    raw.* = .{ .name = Text.of(part.name), .value = part.value };
                }
                own.* = .{
                    .has_value = made.value != null,
                    .value = made.value orelse 0,
                    .parts = List.of(parts),
                };
            }
            return create(Answer(List), .{
                .is_error = false,
                .value = .{ .ok = List.of(scores) },
            });
        }
    };
    const interface = "trainer:plugin/rewards@0.1.0#";
    @export(&realloc, .{ .name = "cabi_realloc" });
    @export(&Glue.describe, .{ .name = interface ++ "describe" });
    @export(&Glue.configure, .{ .name = interface ++ "configure" });
    @export(&Glue.score, .{ .name = interface ++ "score" });
    @export(&afterwards, .{ .name = "cabi_post_" ++ interface ++ "describe" });
    @export(&afterwards, .{ .name = "cabi_post_" ++ interface ++ "configure" });
    @export(&afterwards, .{ .name = "cabi_post_" ++ interface ++ "score" });
}
