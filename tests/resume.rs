//! An interrupted answer of the mind that ships goes on from any word that was played, with the words it would have had.

mod dispatch_support;

use dispatch_support::{NoSensors, job};
use sage::block::reason::Reasoner;
use sage::engine::cpu::kernels::Kernels;
use sage::engine::{CancelToken, Engine, Product, Progress, Session, StepSink, step};
use sage::types::*;
use std::path::Path;

/// Steps until the session waits or is done; the words with their numbers.
fn words(session: &mut dyn Session) -> (Vec<(u16, String)>, Progress) {
    let (go, mut sink, mut words) = (CancelToken::default(), StepSink::default(), Vec::new());
    loop {
        let progress = step(session, &go, &mut sink).unwrap();
        for product in sink.products.drain(..) {
            if let Product::Piece(Piece::Word { index, word }) = product {
                words.push((index, word.as_str().to_owned()));
            }
        }
        if progress != Progress::More {
            return (words, progress);
        }
    }
}

#[test]
fn a_story_goes_on_from_the_word_that_was_heard_last() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/mind");
    let mut mind = Reasoner::load(&folder, Kernels::best(), 1).unwrap();
    let prompt =
        Prompt::from("scene: person none; obstacle none; charger none; battery unknown\ntell me a story").unwrap();
    let ask = |id, credit_words| Job {
        input: JobInput::Ask { prompt, max_tokens: 260 },
        credit_words,
        ..job(id, Capability::Reason, Class::Dialogue, Nanos::NEVER)
    };
    let mut session = mind.open(&ask(1, u16::MAX), &NoSensors).unwrap();
    let (whole, end) = words(&mut *session);
    assert!(whole.len() > 80 && end == Progress::Done, "{whole:?}");
    drop(session);

    let mut interrupted = mind.open(&ask(2, 20), &NoSensors).unwrap();
    let (begun, end) = words(&mut *interrupted);
    assert_eq!((&begun[..], end), (&whole[..begun.len()], Progress::Waiting));
    assert!((20..25).contains(&begun.len()), "as far as its credit allows: {begun:?}");
    interrupted.suspend();
    drop(interrupted);

    let resume = Job {
        input: JobInput::Resume { of: JobId(2), from_word: 7 },
        credit_words: u16::MAX,
        ..job(3, Capability::Reason, Class::Dialogue, Nanos::NEVER)
    };
    let mut resumed = mind.open(&resume, &NoSensors).unwrap();
    let (rest, end) = words(&mut *resumed);
    assert_eq!((&rest[..], end), (&whole[7..], Progress::Done));
    drop(resumed);
    assert!(mind.open(&resume, &NoSensors).is_err(), "an answer is resumed once");
}
