//! How often work may be begun a second time. A retry hides one dead connection from one request; when everything is
//! dying, retries are only more load on what is dying.

/// Requests that pay for one retry.
const PRICE: u32 = 10;

/// One shard's allowance: a tenth of its requests, and at the start one for each connection that it may hold, because
/// each of them may have died while idle. Pure.
#[derive(Debug)]
pub struct Retries {
    /// In tenths of a retry.
    saved: u32,
    most: u32,
}

impl Retries {
    /// With an allowance for so many connections.
    pub fn new(connections: usize) -> Self {
        let most = u32::try_from(connections).unwrap_or(u32::MAX).saturating_mul(PRICE).max(PRICE);
        Self { saved: most, most }
    }

    /// A request came.
    pub fn earn(&mut self) {
        self.saved = (self.saved + 1).min(self.most);
    }

    /// Whether one more may be made now; if so, it is paid for.
    pub fn spend(&mut self) -> bool {
        let affordable = self.saved >= PRICE;
        if affordable {
            self.saved -= PRICE;
        }
        affordable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_beyond_what_was_saved() {
        let mut retries = Retries::new(3);
        let spend = |retries: &mut Retries| (0..100).filter(|_| retries.spend()).count();
        assert_eq!(spend(&mut retries), 3);
        (0..25).for_each(|_| retries.earn());
        assert_eq!(spend(&mut retries), 2);
        // Nothing is saved beyond one for each connection.
        (0..1_000).for_each(|_| retries.earn());
        assert_eq!(spend(&mut retries), 3);
    }
}
