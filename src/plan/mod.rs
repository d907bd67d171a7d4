//! From placement and observation to a plan of ordered steps.
