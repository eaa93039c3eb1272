//! Compiles the files of `proto` without `protoc`.
//!
//! A message that carries a `csi_secret` field, or mount flags (which the specification calls
//! possibly sensitive), gets no `Debug`: logging one by accident does not compile.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(["csi.proto", "pluginregistration.proto"])?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("protocols.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .btree_map(".")
        .skip_debug(unprintable(&compiler))
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The messages that hold a secret or mount flags, directly or inside another message.
fn unprintable(compiler: &protox::Compiler) -> Vec<String> {
    let pool = compiler.descriptor_pool();
    let secret = pool.get_extension_by_name("csi.v1.csi_secret");
    let mut found: Vec<_> = pool
        .all_messages()
        .filter(|message| {
            message.fields().any(|field| {
                field.name() == "mount_flags"
                    || secret
                        .as_ref()
                        .is_some_and(|s| field.options().get_extension(s).as_bool() == Some(true))
            })
        })
        .collect();
    let mut known = 0;
    while known < found.len() {
        known = found.len();
        for message in pool.all_messages() {
            let holds = |m: &protox::prost_reflect::MessageDescriptor| {
                m.fields().any(|field| {
                    let kind = field.kind();
                    kind.as_message().is_some_and(|inner| found.contains(inner))
                })
            };
            if !found.contains(&message) && holds(&message) {
                found.push(message);
            }
        }
    }
    found.iter().map(|message| format!(".{}", message.full_name())).collect()
}
