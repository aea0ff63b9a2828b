//! After the first answer the decoder allocates nothing, on any thread: not for a step, not for another question.

#[path = "support/checkpoint.rs"]
mod checkpoint;

use sage::engine::CancelToken;
use sage::engine::cpu::qwen2::{Decoder, DecoderOptions, Generation, Step};
use sage::model::qwen2::Qwen2Weights;
use sage::model::sampling::{Sampler, Sampling};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The system's allocator, counting calls of all threads.
struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is the same one.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, SeqCst);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, SeqCst);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The only test of this file: another one's allocations would be counted too.
#[test]
fn steps_and_questions_allocate_nothing_after_the_first_answer() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint::cases()[8].write(folder.path(), 1);
    let weights = Arc::new(Qwen2Weights::open(folder.path()).unwrap());
    let vocabulary = weights.config.vocab_size;
    let options = DecoderOptions { threads: 2, context: 400, chunk: 32, ..DecoderOptions::default() };
    let mut decoder = Decoder::new(weights, options).unwrap();
    // All that Qwen2.5 asks of sampling, so that all of it is covered.
    let sampling = Sampling {
        greedy: false,
        repetition_penalty: 1.05,
        temperature: 0.7,
        top_k: 20,
        top_p: 0.8,
        end_tokens: vec![],
    };
    let mut generation = Generation::new(&decoder, Sampler::new(sampling, vocabulary, 1));
    let go = CancelToken::default();
    let prompts: Vec<Vec<u32>> = (0..2).map(|k| (0..150).map(|i| (i * 7 + k * i) % 250).collect()).collect();

    generation.start(&prompts[0], 4, 1).unwrap();
    while !matches!(generation.step(&mut decoder, &go).unwrap(), Step::Finished(_)) {}

    generation.start(&prompts[0], 60, 1).unwrap();
    let before = CALLS.load(SeqCst);
    let mut tokens = 0;
    while let Step::Token(_) = generation.step(&mut decoder, &go).unwrap() {
        tokens += 1;
    }
    assert_eq!((tokens, CALLS.load(SeqCst) - before), (60, 0), "tokens, allocations while decoding");

    let before = CALLS.load(SeqCst);
    generation.start(&prompts[1], 20, 2).unwrap();
    while !matches!(generation.step(&mut decoder, &go).unwrap(), Step::Finished(_)) {}
    assert_eq!(CALLS.load(SeqCst) - before, 0, "allocations of a whole other question");
    assert_eq!(generation.answer().len(), 20);
}
