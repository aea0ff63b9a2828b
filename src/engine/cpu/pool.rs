//! A fixed set of worker threads that run one closure together.
//! Flows in: a closure of the worker's number. Flows out: its side effects, all finished when [`Pool::run`] returns.
//!
//! The caller is worker 0. Workers spin for some hundreds of microseconds between jobs (a decode step is hundreds of
//! jobs), then park. The caller spins for the workers, then offers its processor to them, then sleeps: a caller of a
//! real-time class would otherwise keep a worker of an ordinary class from the processor they share, for ever. Nothing is
//! allocated per job, and nothing locked unless the caller sleeps. A worker that panics lives on; its panic becomes the caller's,
//! whose lane ends the job with it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How long a worker looks at the job counter before it parks, and the caller at the workers before it sleeps.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Looks at the job counter before a worker parks.
    worker_spins: usize,
    /// Looks at the workers before the caller offers its processor to them: on a busy machine they may wait for it.
    caller_spins: usize,
    /// Such offers before the caller sleeps until the last worker wakes it.
    caller_yields: usize,
}

const PATIENCE: Patience = Patience { worker_spins: 20_000, caller_spins: 2_000, caller_yields: 200 };

/// A borrowed closure with its type erased.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), usize),
}

struct Shared {
    workers: usize,
    job: UnsafeCell<Option<Job>>,
    generation: AtomicUsize,
    finished: AtomicUsize,
    closing: AtomicBool,
    /// The caller sleeps, or is about to: the last worker must wake it.
    asleep: AtomicBool,
    bed: Mutex<()>,
    alarm: Condvar,
    /// A worker panicked in this job: what it said lies in `said`.
    panicked: AtomicBool,
    said: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by `run` while no worker is inside a job, and published by the Release on `generation`.
unsafe impl Sync for Shared {}
// SAFETY: the raw closure pointer is only followed between publication and the end of the `run` that owns it.
unsafe impl Send for Shared {}

/// Worker threads that compute together.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    patience: Patience,
}

impl Pool {
    /// `threads` counts the caller, so 1 starts no thread.
    ///
    /// # Errors
    /// The operating system refuses another thread.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        Pool::with_patience(threads, PATIENCE)
    }

    fn with_patience(threads: usize, patience: Patience) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            workers: threads.max(1) - 1,
            job: UnsafeCell::new(None),
            generation: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            panicked: AtomicBool::new(false),
            said: Mutex::new(None),
        });
        let mut workers = Vec::new();
        for number in 1..threads.max(1) {
            let shared = Arc::clone(&shared);
            let name = format!("cpu-lane-{number}");
            let spins = patience.worker_spins;
            workers.push(std::thread::Builder::new().name(name).spawn(move || work(&shared, number, spins))?);
        }
        Ok(Pool { shared, workers, patience })
    }

    /// Number of workers, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `closure(worker)` once on every worker and waits for all. A panic of any of them is the caller's, after all have
    /// ended.
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
        self.shared.panicked.store(false, Relaxed);
        self.shared.generation.fetch_add(1, Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        // Waits also when the closure panics: the workers still borrow it.
        let wait = Wait(self);
        closure(0);
        drop(wait);
        if self.shared.panicked.load(Acquire) {
            let said = self.shared.said.lock().unwrap_or_else(PoisonError::into_inner).take();
            resume_unwind(said.unwrap_or_else(|| Box::new("a worker panicked")));
        }
    }

    /// Waits until every worker has finished the job.
    fn wait(&self) {
        let done = || self.shared.finished.load(SeqCst) == self.workers.len();
        for _ in 0..self.patience.caller_spins {
            if done() {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..self.patience.caller_yields {
            if done() {
                return;
            }
            std::thread::yield_now();
        }
        // Here and in `work` the order is: say so, then look. One of the two sees what the other said (both are SeqCst), so
        // either the caller does not sleep or the last worker rings; it needs the lock to ring, so not before the wait.
        let mut night = self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.asleep.store(true, SeqCst);
        while !done() {
            night = self.shared.alarm.wait(night).unwrap_or_else(PoisonError::into_inner);
        }
        self.shared.asleep.store(false, SeqCst);
    }
}

/// Waits for the workers when dropped.
struct Wait<'a>(&'a Pool);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

fn work(shared: &Shared, number: usize, patience: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.generation.load(Acquire) == seen {
            if spins < patience {
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
            let ended = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.closure, number) }));
            if let Err(said) = ended {
                *shared.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
                shared.panicked.store(true, Release);
            }
        }
        let last = shared.finished.fetch_add(1, SeqCst) + 1 == shared.workers;
        if last && shared.asleep.load(SeqCst) {
            drop(shared.bed.lock().unwrap_or_else(PoisonError::into_inner));
            shared.alarm.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Release);
        self.shared.generation.fetch_add(1, Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Workers do not panic outside of a job; there is nothing to add while dropping.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_worker_runs_every_job_once(patience: Patience) {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::with_patience(threads, patience).unwrap();
            let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for job in 1..=300 {
                pool.run(&|worker| {
                    calls[worker].fetch_add(1, Relaxed);
                });
                assert!(calls.iter().all(|count| count.load(Relaxed) == job), "job {job} of {threads} threads");
            }
        }
    }

    #[test]
    fn every_worker_runs_every_job_once_whether_they_spin_or_sleep() {
        every_worker_runs_every_job_once(PATIENCE);
        every_worker_runs_every_job_once(Patience { worker_spins: 0, caller_spins: 0, caller_yields: 0 });
        every_worker_runs_every_job_once(Patience { worker_spins: 0, ..PATIENCE });
    }

    #[test]
    fn a_panic_of_a_worker_is_the_callers_and_the_pool_works_on() {
        for patience in [PATIENCE, Patience { worker_spins: 0, caller_spins: 0, caller_yields: 0 }] {
            let mut pool = Pool::with_patience(3, patience).unwrap();
            for broken in [1, 2, 0] {
                let ran = AtomicUsize::new(0);
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(&|worker| {
                        ran.fetch_add(1, Relaxed);
                        assert!(worker != broken, "worker {broken} broke");
                    });
                }));
                let said = ended.expect_err("a worker panicked");
                assert_eq!(said.downcast_ref::<String>(), Some(&format!("worker {broken} broke")));
                assert_eq!(ran.load(Relaxed), 3, "the others ran to their end");
                // Nothing of it is left for the next job.
                let ran = AtomicUsize::new(0);
                pool.run(&|_| {
                    ran.fetch_add(1, Relaxed);
                });
                assert_eq!(ran.load(Relaxed), 3);
            }
        }
    }

    #[test]
    fn the_caller_sleeps_while_a_worker_is_late_instead_of_holding_its_processor() {
        let mut pool = Pool::new(2).unwrap();
        let shared = Arc::clone(&pool.shared);
        let slept = AtomicBool::new(false);
        pool.run(&|worker| {
            // The worker ends only after it saw the caller asleep: a caller that never sleeps would hang here.
            while worker == 1 && !shared.asleep.load(SeqCst) {
                std::thread::yield_now();
            }
            slept.fetch_or(worker == 1, Relaxed);
        });
        assert!(slept.load(Relaxed));
        assert!(!shared.asleep.load(SeqCst));
    }
}
