//! A fixed set of worker threads that run one closure together.
//! Flows in: a closure of the worker's number. Flows out: its side effects, all finished when [`Pool::run`] returns.
//!
//! The caller is worker 0. Workers spin for some tens of microseconds between jobs (a decode step is hundreds of jobs),
//! then park. Nothing is allocated or locked per job.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::thread::JoinHandle;

/// Looks at the job counter before a worker parks.
const SPINS: usize = 20_000;
/// Looks at the workers before the caller offers its processor to them: on a busy machine they may wait for it.
const SPINS_BEFORE_YIELD: usize = 2_000;

/// A borrowed closure with its type erased.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), usize),
}

struct Shared {
    job: UnsafeCell<Option<Job>>,
    generation: AtomicUsize,
    finished: AtomicUsize,
    closing: AtomicBool,
}

// SAFETY: `job` is written only by `run` while no worker is inside a job, and published by the Release on `generation`.
unsafe impl Sync for Shared {}
// SAFETY: the raw closure pointer is only followed between publication and the end of the `run` that owns it.
unsafe impl Send for Shared {}

/// Worker threads that compute together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` counts the caller, so 1 starts no thread.
    ///
    /// # Errors
    /// The operating system refuses another thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            generation: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let mut workers = Vec::new();
        for number in 1..threads.max(1) {
            let shared = Arc::clone(&shared);
            let name = format!("cpu-lane-{number}");
            workers.push(std::thread::Builder::new().name(name).spawn(move || work(&shared, number))?);
        }
        Ok(Pool { shared, workers })
    }

    /// Number of workers, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `closure(worker)` once on every worker and waits for all.
    pub fn run<F: Fn(usize) + Sync>(&mut self, closure: &F) {
        if self.workers.is_empty() {
            return closure(0);
        }
        unsafe fn call<F: Fn(usize)>(closure: *const (), worker: usize) {
            // SAFETY: `closure` was made from `&F` below and `run` has not returned yet.
            unsafe { (*closure.cast::<F>())(worker) }
        }
        let job = Job { closure: (closure as *const F).cast(), call: call::<F> };
        // SAFETY: all workers finished the previous job (`&mut self` and the wait below), so nobody reads `job` now.
        unsafe { *self.shared.job.get() = Some(job) };
        self.shared.finished.store(0, Relaxed);
        self.shared.generation.fetch_add(1, Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        closure(0);
        let mut spins = 0;
        while self.shared.finished.load(Acquire) != self.workers.len() {
            if spins < SPINS_BEFORE_YIELD {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

fn work(shared: &Shared, number: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.generation.load(Acquire) == seen {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::park();
            }
        }
        if shared.closing.load(Acquire) {
            return;
        }
        seen = seen.wrapping_add(1);
        // SAFETY: `generation` was raised with Release after `job` was written, and `run` waits for this job's end.
        let job = unsafe { *shared.job.get() };
        if let Some(job) = job {
            // SAFETY: as above; the closure lives until `run` returns.
            unsafe { (job.call)(job.closure, number) };
        }
        shared.finished.fetch_add(1, Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Release);
        self.shared.generation.fetch_add(1, Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker that panicked has already reported; there is nothing to add while dropping.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_job_once() {
        for threads in [1, 2, 3] {
            let mut pool = Pool::new(threads).unwrap();
            let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..100 {
                pool.run(&|worker| {
                    calls[worker].fetch_add(1, Relaxed);
                });
            }
            assert!(calls.iter().all(|count| count.load(Relaxed) == 100));
        }
    }
}
