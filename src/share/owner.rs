//! Whose volumes on shares are.

use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What tells one cluster's volumes from others' on the same share. Clones are the same one: it may be found out
/// after it has been given away, and what needs it until then is UNAVAILABLE.
#[derive(Clone, Debug)]
pub struct Owner(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    name: OnceLock<String>,
    /// Why it is not known yet.
    trouble: Mutex<String>,
}

impl Owner {
    /// Known from the start.
    pub fn new(name: &str) -> Self {
        let owner = Self::to_be_found("");
        owner.found(name);
        owner
    }

    /// Not known yet, for this reason.
    pub fn to_be_found(why: &str) -> Self {
        let owner = Self(Arc::default());
        owner.missing(why);
        owner
    }

    /// Known from now on. An owner never changes: the first one stays.
    pub fn found(&self, name: &str) {
        self.0.name.get_or_init(|| name.to_owned());
    }

    /// Still not known, for this reason.
    pub fn missing(&self, why: &str) {
        why.clone_into(&mut self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whose.
    pub fn name(&self) -> Result<&str> {
        self.0.name.get().map(String::as_str).ok_or_else(|| {
            let why = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            Error::Unavailable(format!("whose volumes on shares are is not known yet: {why}"))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_found_later_is_found_by_all_and_stays() {
        let owner = Owner::to_be_found("nobody was asked");
        let other = owner.clone();
        owner.missing("the API server forbids it");
        let refused = other.name().unwrap_err();
        assert!(matches!(&refused, Error::Unavailable(text) if text.contains("forbids")), "{refused:?}");
        owner.found("one");
        owner.found("two");
        owner.missing("late");
        assert_eq!(other.name().unwrap(), "one");
        assert_eq!(Owner::new("given").name().unwrap(), "given");
    }
}
