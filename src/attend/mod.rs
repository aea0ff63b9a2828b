//! What matters now, and why: salience, state, budget, trust, memory. Pure: inputs of a tick in, wishes and vitals out.
