//! Where does randomness come from? The kernel's generator, which is never empty once it is seeded (getrandom(2)).

/// The kernel gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the kernel gave no random bytes ({0}): nothing may be made without them; check that getrandom(2) is allowed")]
pub struct EntropyError(getrandom::Error);

/// `N` bytes that nobody can guess: keys, ids, nonces.
pub fn random<const N: usize>() -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(EntropyError)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random::<32>().expect("random"), random::<32>().expect("random"));
    }
}
