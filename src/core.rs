//! One tick: attend, then dispatch, then the gate on actions, in one pure step. `Inputs` flow in, `Outputs` flow out.
