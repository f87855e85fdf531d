//! Where row groups and shards end: a function of the rows alone, so that neither threads nor a
//! restart change it.

use super::rows::Rows;

/// Where a shard ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The block whose rows it ended in.
    pub block: u64,
    /// Rows of that block that belong to shards before.
    pub rows: usize,
}

/// Rows that are encoded together.
pub struct Group {
    /// The rows, in parts.
    pub parts: Vec<Rows>,
    /// Where the shard ends, if this is its last group.
    pub shard_end: Option<Position>,
}

impl Group {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Rows::len).sum()
    }
}

/// Limits of groups and shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most rows of a group.
    pub group_rows: usize,
    /// Bytes with which a group is full.
    pub group_bytes: usize,
    /// Rows of a shard.
    pub shard_rows: Option<usize>,
    /// Bytes, before compression, with which a shard is full.
    pub shard_bytes: Option<usize>,
}

/// Gathers rows and cuts them.
pub struct Cutter {
    limits: Limits,
    pending: Vec<Rows>,
    pending_rows: usize,
    pending_bytes: usize,
    shard_rows: usize,
    shard_bytes: usize,
}

impl Cutter {
    /// Nothing gathered yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            shard_rows: 0,
            shard_bytes: 0,
        }
    }

    /// Adds rows of `block`, which begin at its row `first`; answers the groups that became full.
    pub fn push(&mut self, rows: Rows, block: u64, first: usize) -> Vec<Group> {
        let mut full = Vec::new();
        let mut at = 0;
        let len = rows.len();
        let mut rest = Some(rows);
        while let Some(rows) = rest.take().filter(|_| at < len) {
            let of_group = self.limits.group_rows.max(1) - self.pending_rows;
            let of_shard =
                self.limits.shard_rows.map_or(usize::MAX, |n| n.max(1) - self.shard_rows);
            let take = (len - at).min(of_group).min(of_shard);
            // What goes in as a whole, as most does, is not copied.
            let piece = if take == len {
                rows
            } else {
                let piece = rows.slice(at, at + take);
                rest = Some(rows);
                piece
            };
            at += take;
            let bytes = piece.bytes();
            self.pending.push(piece);
            self.pending_rows += take;
            self.pending_bytes += bytes;
            self.shard_rows += take;
            self.shard_bytes += bytes;
            let shard_full = self.limits.shard_rows.is_some_and(|n| self.shard_rows >= n)
                || self.limits.shard_bytes.is_some_and(|n| self.shard_bytes >= n);
            let group_full = self.pending_rows >= self.limits.group_rows
                || self.pending_bytes >= self.limits.group_bytes;
            if shard_full {
                let end = Position { block, rows: first + at };
                full.extend(self.cut(Some(end)));
                (self.shard_rows, self.shard_bytes) = (0, 0);
            } else if group_full {
                full.extend(self.cut(None));
            }
        }
        full
    }

    /// The rows that are left, which end the last shard at the end of all blocks.
    pub fn finish(&mut self, blocks: u64) -> Option<Group> {
        self.cut(Some(Position { block: blocks, rows: 0 }))
    }

    fn cut(&mut self, shard_end: Option<Position>) -> Option<Group> {
        (self.pending_rows, self.pending_bytes) = (0, 0);
        let parts = std::mem::take(&mut self.pending);
        (!parts.is_empty()).then_some(Group { parts, shard_end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Rows {
        Rows::Lines { text: b"x\n".repeat(n), ends: (1..=n).map(|i| 2 * i).collect() }
    }

    #[test]
    fn groups_and_shards_end_where_the_limits_say() {
        let limits =
            Limits { group_rows: 4, group_bytes: 1000, shard_rows: Some(6), shard_bytes: None };
        let mut cutter = Cutter::new(limits);
        let mut groups = cutter.push(rows(5), 0, 0);
        groups.extend(cutter.push(rows(9), 1, 0));
        groups.extend(cutter.finish(2));
        let seen: Vec<_> = groups.iter().map(|g| (g.len(), g.shard_end)).collect();
        let at = |block, rows| Some(Position { block, rows });
        assert_eq!(seen, [(4, None), (2, at(1, 1)), (4, None), (2, at(1, 7)), (2, at(2, 0))]);
    }

    #[test]
    fn bytes_end_groups_and_shards_too() {
        let limits =
            Limits { group_rows: 100, group_bytes: 6, shard_rows: None, shard_bytes: Some(10) };
        let mut cutter = Cutter::new(limits);
        let mut sizes = Vec::new();
        for block in 0..5 {
            let groups = cutter.push(rows(2), block, 0);
            sizes.extend(groups.iter().map(|g| (g.len(), g.shard_end.is_some())));
        }
        assert_eq!(sizes, [(4, false), (2, true), (4, false)]);
    }
}
