//! The core's tick allocates nothing after construction, whatever happens in it, and a keyframe can be written without.

mod core_support;
#[path = "dispatch_support/counting.rs"]
mod counting;

use core_support::{Day, config};
use counting::{Counting, calls};
use sage::core::Core;
use sage::types::{Decision, Inputs, Outputs};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_tick_allocates_nothing() {
    let (mut day, mut decisions) = (Day::new(1), Vec::new());
    let inputs: Vec<Inputs> = (0..12_000)
        .map(|_| {
            let (inputs, outputs) = day.tick();
            decisions.extend(outputs.decisions.iter().copied());
            inputs.clone()
        })
        .collect();
    let happens = |what: fn(&Decision) -> bool| decisions.iter().any(what);
    assert!(happens(|d| matches!(d, Decision::Cut { .. })), "answers are broken off");
    assert!(happens(|d| matches!(d, Decision::Halt { on: false, .. })), "halts come and go");
    assert!(happens(|d| matches!(d, Decision::State { .. })), "states change");

    let (mut core, mut out) = (Core::new(config()), Outputs::default());
    let mut buffer = vec![0; Core::KEYFRAME_BYTES];
    let before = calls();
    for inputs in &inputs {
        core.tick(inputs, &mut out);
    }
    let written = core.keyframe_into(&mut buffer).map(<[u8]>::len);
    assert_eq!(calls() - before, 0);
    assert_eq!(written, Some(core.keyframe().len()));
}
