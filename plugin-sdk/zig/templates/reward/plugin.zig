//! A reward: 1 where the final answer of a completion is that of the reference.

const std = @import("std");
const trainer = @import("sdk/trainer.zig");

pub const about: trainer.About = .{
    .name = "my-plugin",
    .version = "0.1.0",
    .summary = "1 where the final answer is that of the reference, else 0.",
    .options_schema =
    \\{"type": "object", "additionalProperties": false, "properties": {
    \\  "unmarked": {"type": "number", "default": 1, "minimum": 0, "maximum": 1,
    \\    "description": "score of a right answer that no #### marks"}}}
    ,
};

pub const columns: []const trainer.Column = &.{
    .{ .name = "completion" },
    .{ .name = "reference", .optional = true },
};

pub const Options = struct { unmarked: f64 = 1 };

comptime {
    trainer.exportReward(@This());
}

pub fn score(row: trainer.Row, options: Options, allocator: std.mem.Allocator) trainer.Score {
    const wanted = answer(row.text("reference") orelse "") orelse return .{};
    const completion = row.text("completion") orelse "";
    const marked = findLast(completion, "####") != null;
    const right = if (answer(completion)) |said| same(said, wanted, allocator) else false;
    const parts = allocator.dupe(trainer.Part, &.{
        .{ .name = "marked", .value = if (marked) 1 else 0 },
    }) catch return .{};
    const value: f64 = if (!right) 0 else if (marked) 1 else options.unmarked;
    return .{ .value = value, .parts = parts };
}

fn digit(text: []const u8, at: usize) bool {
    return at < text.len and text[at] >= '0' and text[at] <= '9';
}

/// The end of the number that begins at the digit `start`.
fn numberEnd(text: []const u8, start: usize) usize {
    var at = start;
    while (true) {
        while (digit(text, at)) at += 1;
        const group = at < text.len and text[at] == ',' and digit(text, at + 1) and
            digit(text, at + 2) and digit(text, at + 3) and !digit(text, at + 4);
        if (!group) break;
        at += 4;
    }
    if (at < text.len and text[at] == '.' and digit(text, at + 1)) {
        at += 1;
        while (digit(text, at)) at += 1;
    }
    return at;
}

/// Where `what` stands last.
fn findLast(text: []const u8, what: []const u8) ?usize {
    var end = text.len;
    while (end >= what.len) : (end -= 1) {
        if (std.mem.eql(u8, text[end - what.len .. end], what)) return end - what.len;
    }
    return null;
}

/// The first number after the last `####`, else the last number; with its sign.
fn answer(text: []const u8) ?[]const u8 {
    const marker = findLast(text, "####");
    const said = if (marker) |at| text[at + 4 ..] else text;
    var found: ?[]const u8 = null;
    var at: usize = 0;
    while (at < said.len) {
        if (!digit(said, at)) {
            at += 1;
            continue;
        }
        const begin = at;
        at = numberEnd(said, at);
        const negative = begin > 0 and said[begin - 1] == '-' and
            !(begin > 1 and digit(said, begin - 2));
        found = said[begin - @intFromBool(negative) .. at];
        if (marker != null) break;
    }
    return found;
}

/// Whether two numbers are the same but for separators and zeros that say nothing.
fn same(a: []const u8, b: []const u8, allocator: std.mem.Allocator) bool {
    const left = canonical(a, allocator) orelse return false;
    const right = canonical(b, allocator) orelse return false;
    return std.mem.eql(u8, left, right);
}

fn canonical(number: []const u8, allocator: std.mem.Allocator) ?[]const u8 {
    const out = allocator.alloc(u8, number.len) catch return null;
    const negative = number[0] == '-';
    out[0] = '-';
    const first: usize = @intFromBool(negative);
    var len = first;
    var fraction = false;
    for (number[first..]) |c| {
        if (c == ',') continue;
        // A zero at the front goes when a digit follows.
        if (!fraction and len == first + 1 and out[first] == '0' and c != '.') len = first;
        if (c == '.') fraction = true;
        out[len] = c;
        len += 1;
    }
    if (fraction) {
        while (out[len - 1] == '0') len -= 1;
        if (out[len - 1] == '.') len -= 1;
    }
    if (len == first + 1 and out[first] == '0') return "0";
    return out[0..len];
}
