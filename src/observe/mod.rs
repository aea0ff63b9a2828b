//! What people see of a run: histograms, the report, the live view, logs; and what the service manager is told. Tick
//! records flow in from the edge threads; numbers, pictures and lines flow out.

pub mod histogram;
pub mod logging;
pub mod notify;
pub mod report;
pub mod svg;
pub mod tally;
pub mod view;

pub use histogram::{Histogram, Quantiles};
pub use report::Report;
pub use tally::{Tally, Timing};
