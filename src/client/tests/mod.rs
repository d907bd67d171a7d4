//! The client against a server that does what each test tells it.

mod calls;
mod fake;
mod streams;
