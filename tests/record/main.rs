//! Recording and replaying as a user sees it: what was written is read back, a replay agrees, every change is found at
//! its tick, and a log cut or damaged anywhere still gives what it holds.

mod fake;
mod foreign;
mod mutate;
mod recording;
mod replaying;
mod simulating;
mod stub;
mod surviving;
