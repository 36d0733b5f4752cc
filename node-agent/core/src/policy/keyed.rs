//! Rules found by the keys of which they need one.

/// Rules by digests of keys: entries sorted by digest and rule, and where those begin whose digest
/// starts with the same bits. There are about as many such beginnings as entries, so a search looks
/// at one or two entries.
#[derive(Debug)]
pub(super) struct Keyed {
    entries: Box<[(u64, u16)]>,
    /// One more than there are beginnings.
    starts: Box<[u32]>,
    /// How far a digest is shifted to leave its first bits.
    shift: u32,
}

impl Keyed {
    pub(super) fn new(mut entries: Vec<(u64, u16)>) -> Self {
        entries.sort_unstable();
        entries.dedup();
        let bits = entries.len().next_power_of_two().ilog2().max(1);
        let shift = u64::BITS - bits;
        let start = |first: u64| entries.partition_point(|(digest, _)| digest >> shift < first);
        let starts =
            (0..=1_u64 << bits).map(|first| u32::try_from(start(first)).unwrap_or(u32::MAX));
        Self { starts: starts.collect(), entries: entries.into(), shift }
    }

    /// The rules with a key of this digest, in order.
    pub(super) fn find(&self, digest: u64) -> impl Iterator<Item = u16> {
        let first = usize::try_from(digest >> self.shift).unwrap_or(usize::MAX);
        let range = match self.starts.get(first..).unwrap_or_default() {
            [start, end, ..] => *start as usize..*end as usize,
            _ => 0..0,
        };
        let near = self.entries.get(range).unwrap_or_default().iter();
        near.filter(move |(other, _)| *other == digest).map(|(_, rule)| *rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_rules_of_a_key_in_order_and_no_others() {
        for count in [0, 1, 2, 3, 50, 1000] {
            // Digests that share their first bits, and digests that do not.
            let digest = |n: u64| {
                if n.is_multiple_of(2) { n } else { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
            };
            let entries = (0..count).flat_map(|n| [(digest(n), 7), (digest(n), 3), (digest(n), 3)]);
            let keyed = Keyed::new(entries.collect());
            for n in 0..count {
                assert_eq!(keyed.find(digest(n)).collect::<Vec<_>>(), [3, 7], "{n} of {count}");
            }
            for other in [digest(count), u64::MAX, u64::MAX - count] {
                assert_eq!(keyed.find(other).count(), 0, "{other} in {count}");
            }
        }
    }
}
