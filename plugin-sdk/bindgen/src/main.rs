//! Writes the C bindings of the three worlds from the contract: `bindgen WIT-FOLDER OUT-FOLDER`.
//!
//! The type of a world is not written: `trainer plugin build` embeds it in the module, so a
//! project needs no object file of a particular compiler.

use std::path::Path;
use std::process::ExitCode;

use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

const WORLDS: [&str; 3] = ["formatter", "template", "reward"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [wit, out] = args.as_slice() else {
        eprintln!("usage: bindgen WIT-FOLDER OUT-FOLDER");
        return ExitCode::from(2);
    };
    for world in WORLDS {
        if let Err(message) = generate(Path::new(wit), world, Path::new(out)) {
            eprintln!("error: {world}: {message}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn generate(wit: &Path, name: &str, out: &Path) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| format!("{e:#}");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).map_err(|e| text(&e))?;
    let world = resolve.select_world(&[package], Some(name)).map_err(|e| text(&e))?;
    let mut files = Files::default();
    // One name for all worlds, so that one header of helpers serves them.
    let options = wit_bindgen_c::Opts {
        no_object_file: true,
        rename_world: Some("trainer".into()),
        ..Default::default()
    };
    let mut generator = options.build();
    generator.generate(&mut resolve, world, &mut files).map_err(|e| text(&e))?;
    let folder = out.join(name);
    std::fs::create_dir_all(&folder).map_err(|e| text(&e))?;
    for (file, contents) in files.iter() {
        std::fs::write(folder.join(file), contents).map_err(|e| text(&e))?;
    }
    Ok(())
}
