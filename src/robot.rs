//! The live loop: threads and devices around the pure core. Configuration flows in; a running robot and its report come out.
