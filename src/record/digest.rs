//! The digest of a run: a BLAKE3 chain over the canonical bytes of what each tick decided. `Outputs` flow in tick by
//! tick; 32 bytes come out that are the same whenever the same decisions were taken. No wall-clock value is in it.

use crate::types::Outputs;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

/// The chain so far: `d' = BLAKE3(d ‖ postcard(tick, decisions, commands, acts))`, from 32 zero bytes. A chain, and
/// not one hash over everything, so that a keyframe can carry it and a replay can begin in the middle of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// Feeds serialised bytes straight into the hasher: nothing is allocated, so the tick itself may do it.
struct Hashing(blake3::Hasher);

impl Flavor for Hashing {
    type Output = blake3::Hash;

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.update(&[data]);
        Ok(())
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.update(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<blake3::Hash> {
        Ok(self.0.finalize())
    }
}

impl Digest {
    /// Takes in what tick `tick` decided. A tick that was skipped does not appear.
    pub fn update(&mut self, tick: u64, outputs: &Outputs) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        let decided = (tick, &outputs.decisions, &outputs.commands, &outputs.acts);
        // The flavour never fails and the types hold nothing that postcard refuses.
        if let Ok(hash) = postcard::serialize_with_flavor(&decided, Hashing(hasher)) {
            self.0 = *hash.as_bytes();
        }
    }

    /// The same from bytes that [`decided_bytes`] made.
    pub fn update_bytes(&mut self, decided: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        hasher.update(decided);
        self.0 = *hasher.finalize().as_bytes();
    }

    /// As 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Digest> {
        blake3::Hash::from_hex(text).ok().map(|hash| Digest(*hash.as_bytes()))
    }
}

/// The canonical bytes of what a tick decided, replacing the content of `into`.
pub fn decided_bytes(tick: u64, outputs: &Outputs, into: &mut Vec<u8>) {
    into.clear();
    let decided = (tick, &outputs.decisions, &outputs.commands, &outputs.acts);
    let taken = std::mem::take(into);
    // Serialising plain data into memory cannot fail.
    *into = postcard::to_extend(&decided, taken).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Act, Nanos, UtteranceId};

    fn outputs(at: u64) -> Outputs {
        let mut outputs = Outputs::default();
        outputs.acts.push(Act::Heartbeat { at: Nanos(at) });
        outputs.acts.push(Act::EndOfAnswer { utterance: UtteranceId(3) });
        outputs
    }

    #[test]
    fn both_ways_of_updating_agree_and_every_tick_counts() {
        let (mut streamed, mut from_bytes, mut bytes) = (Digest::default(), Digest::default(), Vec::new());
        for tick in 0..5 {
            streamed.update(tick, &outputs(tick * 7));
            decided_bytes(tick, &outputs(tick * 7), &mut bytes);
            from_bytes.update_bytes(&bytes);
        }
        assert_eq!(streamed, from_bytes);
        let mut other = Digest::default();
        for tick in 0..5 {
            other.update(tick, &outputs(tick * 7 + u64::from(tick == 2)));
        }
        assert_ne!(streamed, other);
        assert_eq!(Digest::from_hex(&streamed.hex()), Some(streamed));
    }

    #[test]
    fn numbers_that_decide_nothing_are_not_in_it() {
        let (mut a, mut b) = (Digest::default(), Digest::default());
        a.update(1, &outputs(1));
        let mut with_vitals = outputs(1);
        with_vitals.vitals.atp_ms = 5.0;
        b.update(1, &with_vitals);
        assert_eq!(a, b);
    }
}
