//! Decode and prefill speed of llama.cpp on a GGUF file, measured as `sage bench llm` measures itself: 24 decode steps after 16
//! tokens, 512 tokens of prefill, a warm-up before. Its steps need not choose a token, which favours it slightly. Also how long
//! it takes to stop, through the abort callback that it offers. A GGUF file flows in, one line of JSON flows out.

use crate::Failure;
use llama_cpp_sys_2 as llama;
use serde_json::json;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const CONTEXT: u32 = 2048;
const PREFILL: usize = 512;
const DECODE: usize = 24;
/// Cancels at different instants of a step.
const STOPS: u32 = 20;

static ABORT: AtomicBool = AtomicBool::new(false);

extern "C" fn aborted(_: *mut c_void) -> bool {
    ABORT.load(SeqCst)
}

extern "C" fn silent(_: llama::ggml_log_level, _: *const std::ffi::c_char, _: *mut c_void) {}

/// A loaded model with an empty cache.
struct Peer {
    context: *mut llama::llama_context,
    vocabulary: i32,
}

impl Peer {
    fn load(file: &str, threads: i32) -> Result<Peer, Failure> {
        let path = CString::new(file)?;
        // SAFETY: plain calls of llama.cpp's interface in the order it asks for; model and context live until the process ends.
        unsafe {
            llama::llama_log_set(Some(silent), std::ptr::null_mut());
            llama::llama_backend_init();
            let model = llama::llama_model_load_from_file(path.as_ptr(), llama::llama_model_default_params());
            if model.is_null() {
                return Err(format!("llama.cpp cannot load {file}").into());
            }
            let mut how = llama::llama_context_default_params();
            (how.n_ctx, how.n_batch, how.n_ubatch) = (CONTEXT, PREFILL as u32, PREFILL as u32);
            (how.n_threads, how.n_threads_batch) = (threads, threads);
            how.abort_callback = Some(aborted);
            let context = llama::llama_init_from_model(model, how);
            if context.is_null() {
                return Err("llama.cpp cannot make a context".into());
            }
            let vocabulary = llama::llama_vocab_n_tokens(llama::llama_model_get_vocab(model));
            Ok(Peer { context, vocabulary })
        }
    }

    fn tokens(&self, count: usize, variant: usize) -> Vec<i32> {
        (0..count).map(|i| ((i * 7919 + 31 * variant + 11) % (self.vocabulary as usize - 1)) as i32).collect()
    }

    /// Forgets all tokens.
    fn clear(&mut self) {
        // SAFETY: the context is valid as long as `self`.
        unsafe { llama::llama_memory_clear(llama::llama_get_memory(self.context), true) }
    }

    /// Reads tokens and waits for the logits of the last one. `false`: aborted.
    fn read(&mut self, tokens: &mut [i32]) -> bool {
        // SAFETY: the batch borrows `tokens` for the call only; the logits pointer is not followed.
        unsafe {
            let batch = llama::llama_batch_get_one(tokens.as_mut_ptr(), tokens.len() as i32);
            if llama::llama_decode(self.context, batch) != 0 {
                return false;
            }
            std::hint::black_box(llama::llama_get_logits_ith(self.context, -1));
            true
        }
    }

    fn timed(&mut self, tokens: &mut [i32]) -> Result<Duration, Failure> {
        let began = Instant::now();
        if self.read(tokens) { Ok(began.elapsed()) } else { Err("llama.cpp failed to decode".into()) }
    }

    /// From an abort inside a step on `tokens` until the step has returned.
    fn stops(&mut self, tokens: &mut [i32]) -> Result<Vec<Duration>, Failure> {
        self.clear();
        let whole = self.timed(tokens)?;
        let mut times = Vec::new();
        for i in 0..STOPS {
            self.clear();
            ABORT.store(false, SeqCst);
            let delay = whole.mul_f64((f64::from(i) * 0.618_034).fract() * 0.8);
            let stopped = std::thread::scope(|scope| {
                let aborter = scope.spawn(|| {
                    std::thread::sleep(delay);
                    let at = Instant::now();
                    ABORT.store(true, SeqCst);
                    at
                });
                let whole = self.read(tokens);
                let free = Instant::now();
                let at = aborter.join().ok();
                at.filter(|_| !whole).map(|at| free.saturating_duration_since(at))
            });
            times.extend(stopped);
        }
        ABORT.store(false, SeqCst);
        self.clear();
        Ok(times)
    }
}

/// The value below which `share` of the durations lie, in ms.
fn quantile_ms(durations: &[Duration], share: f64) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map_or(0.0, |duration| (duration.as_secs_f64() * 1e6).round() / 1e3)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Measures decode and prefill and prints one line of JSON.
pub fn speed(file: &str, threads: &str, repeat: &str) -> Result<(), Failure> {
    let (threads, repeat): (i32, usize) = (threads.parse()?, repeat.parse()?);
    let mut peer = Peer::load(file, threads)?;
    let mut warm = peer.tokens(PREFILL, 0);
    peer.timed(&mut warm)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for variant in 1..=repeat {
        peer.clear();
        let (mut prompt, answer) = (peer.tokens(16, variant), peer.tokens(DECODE, 50 + variant));
        peer.timed(&mut prompt)?;
        for token in answer {
            decode.push(peer.timed(&mut [token])?);
        }
        peer.clear();
        let mut prompt = peer.tokens(PREFILL, 100 + variant);
        prefill.push(peer.timed(&mut prompt)?);
    }
    let result = json!({
        "threads": threads,
        "decode_tokens_per_s": round(1e3 / quantile_ms(&decode, 0.5)),
        "prefill_tokens_per_s_at_512": round(PREFILL as f64 * 1e3 / quantile_ms(&prefill, 0.5)),
    });
    println!("{result}");
    Ok(())
}

/// Measures how long it takes to stop and prints one line of JSON.
pub fn stop(file: &str, threads: &str) -> Result<(), Failure> {
    let threads: i32 = threads.parse()?;
    let mut peer = Peer::load(file, threads)?;
    let mut prompt = peer.tokens(PREFILL, 0);
    let decode = peer.stops(&mut [5])?;
    let prefill = peer.stops(&mut prompt)?;
    let result = json!({
        "threads": threads,
        "stop_decode_ms_p50": quantile_ms(&decode, 0.5),
        "stop_decode_ms_max": quantile_ms(&decode, 1.0),
        "stop_prefill_ms_p50": quantile_ms(&prefill, 0.5),
        "stop_prefill_ms_max": quantile_ms(&prefill, 1.0),
    });
    println!("{result}");
    Ok(())
}
