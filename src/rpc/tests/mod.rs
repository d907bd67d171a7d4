//! The services in a process of their own, over a backend that does what each test tells it.

mod answers;
mod bad_input;
mod failures;
mod fake;
mod life;
mod replacement;
mod streams;
