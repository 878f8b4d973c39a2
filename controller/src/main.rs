//! The program `umbra-controller`; all of it is in the library, so that the lab can be it, too.

fn main() -> std::process::ExitCode {
    umbra_controller::main()
}
