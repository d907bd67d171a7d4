//! Lets libraries that look the system's calls up by name find those of `src/system.rs`.

fn main() {
    println!("cargo:rustc-link-arg-bins=-rdynamic");
    println!("cargo:rerun-if-changed=build.rs");
}
