//! What people see of a run: histograms, live view, reports, logs.
