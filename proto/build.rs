//! Generates the wire's code with protox, so that nobody needs a protoc.

use prost::Message as _;

/// Messages that carry a secret: they get a `Debug` that does not show it, in `src/redact.rs`.
const SECRET: [&str; 29] = [
    ".umbra.v1.LoginRequest",
    ".umbra.v1.EnrollRequest",
    ".umbra.v1.RecoverRequest",
    ".umbra.v1.Pairing",
    ".umbra.v1.Offer",
    ".umbra.admin.v1.ClaimOwnerRequest",
    ".umbra.admin.v1.AddUserRequest",
    ".umbra.admin.v1.SetPasswordRequest",
    ".umbra.admin.v1.CreateJoinKeyReply",
    ".umbra.admin.v1.BackupRequest",
    ".umbra.admin.v1.MakeFederationFileReply",
    ".umbra.local.v1.UpRequest",
    ".umbra.local.v1.LoginRequest",
    ".umbra.v1.BeginTotpReply",
    ".umbra.v1.ConfirmTotpRequest",
    ".umbra.v1.RecoveryCodes",
    ".umbra.v1.VerifyFactorRequest",
    ".umbra.local.v1.BeginTotpReply",
    ".umbra.local.v1.ConfirmTotpRequest",
    ".umbra.local.v1.RecoveryCodes",
    ".umbra.local.v1.VerifyFactorRequest",
    ".umbra.v1.BeginSignInReply",
    ".umbra.v1.FinishSignInRequest",
    ".umbra.local.v1.BeginSignInReply",
    ".umbra.local.v1.FinishSignInRequest",
    ".umbra.admin.v1.AddIdpRequest",
    ".umbra.v1.SignTokenReply",
    ".umbra.admin.v1.BreakGlassRequest",
    ".umbra.admin.v1.BreakGlassReply",
];

/// The same in the SPIFFE Workload API.
const STANDARD_SECRET: [&str; 5] =
    [".X509SVID", ".X509SVIDResponse", ".JWTSVID", ".JWTSVIDResponse", ".ValidateJWTSVIDRequest"];

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
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?).join("umbra.bin");
    std::fs::write(out, descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .type_attribute(".umbra.admin.v1", "#[derive(serde::Serialize)]")
        .type_attribute(".umbra.local.v1", "#[derive(serde::Serialize)]")
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    // Apart from ours: it has no package, and its RPCs are the client's alone.
    println!("cargo:rerun-if-changed=proto/workload_api.proto");
    let standard = protox::compile(["workload_api.proto"], ["proto"])?;
    tonic_prost_build::configure().skip_debug(STANDARD_SECRET).compile_fds(standard)?;
    Ok(())
}
