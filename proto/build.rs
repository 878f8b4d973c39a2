//! Generates the wire's code with protox, so that nobody needs a protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "umbra/v1/common.proto",
        "umbra/v1/enrol.proto",
        "umbra/v1/control.proto",
        "umbra/v1/admin.proto",
        "umbra/v1/local.proto",
    ];
    for file in &files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
