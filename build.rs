//! Compiles everything under `proto/` with protox, so that no `protoc` need be installed: messages, services, and the
//! descriptors that the reflection service hands out.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    find(Path::new("proto"), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    for file in &files {
        compiler.open_file(file)?;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = compiler.file_descriptor_set();
    // Reflection needs no comments; without them the descriptors are a third of the size.
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|f| f.source_code_info = None);
    fs::write(out.join("playhead.fds"), bare.encode_to_vec())?;

    tonic_prost_build::configure().bytes(".playhead.link.v1").include_file("packages.rs").compile_fds(descriptors)?;
    Ok(())
}

/// Every `.proto` file under `folder`.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
