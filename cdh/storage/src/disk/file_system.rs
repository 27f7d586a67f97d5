//! An ext4 file system on a fresh mapping.
//!
//! Behind a mapping with integrity a sector that was never written has no valid tag, and reading it fails. mkfs.ext4 looks for what
//! was there before where superblocks lie; so these blocks are written first, and the tables of inodes at once instead of later.

use std::{
    fs::OpenOptions,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rustix::fs::OFlags;

use super::appear::mapping;
use crate::Failure;

/// Where the program is, where it did not come with this one.
const PROGRAMS: [&str; 4] =
    ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4", "/bin/mkfs.ext4"];
/// Where it and its libraries are in a tree that has this program in `usr/local/bin`, such as an extension image of kata.
const BESIDE: [&str; 2] = ["usr/sbin/mkfs.ext4", "usr/local/lib"];
/// Bytes of a block, and of an encryption sector.
const BLOCK: usize = 4096;
/// Most superblocks that are believed.
const MAX_SUPERBLOCKS: usize = 4096;

/// Makes a file system on the mapping `name`, with these further arguments.
pub(super) fn make(name: &str, options: &[String], integrity: bool) -> Result<(), Failure> {
    let device = mapping(name);
    let mut options = options.to_vec();
    if integrity {
        options = without_reading(options);
        let told = run(&[&["-F".to_owned(), "-n".to_owned()], options.as_slice()].concat(), &device)?;
        for number in superblocks(&String::from_utf8_lossy(&told.stdout)) {
            write_zeros(&device, number)?;
        }
    }
    run(&[&["-q".to_owned(), "-F".to_owned()], options.as_slice()].concat(), &device).map(drop)
}

/// The options, with blocks of a sector each and all tables of inodes written at once.
fn without_reading(mut options: Vec<String>) -> Vec<String> {
    if !options.iter().any(|option| option == "-b") {
        options.extend(["-b".to_owned(), BLOCK.to_string()]);
    }
    if options.iter().any(|option| option.contains("lazy_itable_init")) {
        return options;
    }
    let last = options.iter().rposition(|option| option == "-E");
    match last.and_then(|last| options.get_mut(last + 1)) {
        Some(extended) => extended.push_str(",lazy_itable_init=0"),
        None => options.extend(["-E".to_owned(), "lazy_itable_init=0".to_owned()]),
    }
    options
}

/// Block 0, and those that mkfs.ext4 says it would keep copies of the superblock in.
fn superblocks(told: &str) -> Vec<u64> {
    let listed = told.split_once("Superblock backups stored on blocks:").map_or("", |(_, list)| list);
    let words = listed.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
    let numbers = words.map_while(|word| word.parse().ok()).take(MAX_SUPERBLOCKS);
    std::iter::once(0).chain(numbers).collect()
}

/// Writes zeros to one block, past the cache: nothing is read for it.
fn write_zeros(device: &Path, number: u64) -> Result<(), Failure> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
    let buffer = vec![0_u8; 2 * BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    let zeros = buffer.get(start..start + BLOCK).unwrap_or_default();
    let file = OpenOptions::new().write(true).custom_flags(flags).open(device);
    file.and_then(|file| file.write_all_at(zeros, number * BLOCK as u64))
        .map_err(Failure::storage(format!("write block {number} of {}", device.display())))
}

#[allow(clippy::disallowed_methods, reason = "ext4 file systems are made by this program and no library")]
fn run(arguments: &[String], device: &Path) -> Result<Output, Failure> {
    let failed = |why: String| Failure::FileSystem {
        doing: format!("make a file system on {}", device.display()),
        why,
    };
    let own = std::env::current_exe().ok().and_then(|own| beside(&own));
    let mut command = match own {
        Some([program, libraries]) => {
            let mut command = Command::new(program);
            command.env_clear().env("LD_LIBRARY_PATH", libraries);
            command
        }
        None => {
            let program = PROGRAMS.into_iter().find(|program| Path::new(program).exists());
            let mut command =
                Command::new(program.ok_or_else(|| failed("mkfs.ext4 is not installed".to_owned()))?);
            command.env_clear();
            command
        }
    };
    let output = command
        .args(arguments)
        .arg("--")
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(failed(format!("{}: {}", output.status, said.chars().take(200).collect::<String>())));
    }
    Ok(output)
}

/// The program and the folder of its libraries in the tree that `own` is in, if that is not the root of the machine.
fn beside(own: &Path) -> Option<[PathBuf; 2]> {
    let tree = own.ancestors().nth(4).filter(|tree| own.starts_with(tree.join("usr/local/bin")))?;
    let [program, libraries] = BESIDE.map(|path| tree.join(path));
    (tree != Path::new("/") && program.exists()).then_some([program, libraries])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_its_own_has_its_own_program() {
        let tree = tempfile::tempdir().unwrap();
        let own = tree.path().join("usr/local/bin/cdh-storage");
        assert_eq!(beside(&own), None);
        std::fs::create_dir_all(tree.path().join("usr/sbin")).unwrap();
        std::fs::write(tree.path().join("usr/sbin/mkfs.ext4"), "").unwrap();
        let [program, libraries] = beside(&own).unwrap();
        assert!(program.is_file() && libraries == tree.path().join("usr/local/lib"));
        for elsewhere in [tree.path().join("usr/bin/cdh-storage"), "/usr/local/bin/cdh-storage".into()] {
            assert_eq!(beside(&elsewhere), None, "{}", elsewhere.display());
        }
    }

    #[test]
    fn the_blocks_that_mkfs_reads_are_found_in_what_it_says() {
        let told = "mke2fs 1.47.2 (1-Jan-2025)\nCreating filesystem with 262144 4k blocks and 65536 inodes\n\
                    Superblock backups stored on blocks: \n\t32768, 98304, 163840, 229376\n\n";
        assert_eq!(superblocks(told), [0, 32768, 98304, 163840, 229376]);
        assert_eq!(superblocks("Creating filesystem with 8192 4k blocks\n"), [0]);
        assert_eq!(superblocks("Superblock backups stored on blocks: x 5"), [0]);
    }

    #[test]
    fn tables_of_inodes_are_written_at_once_unless_the_caller_says_otherwise() {
        let words =
            |text: &str| text.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        for (given, expected) in [
            ("", "-b 4096 -E lazy_itable_init=0"),
            ("-m 0", "-m 0 -b 4096 -E lazy_itable_init=0"),
            ("-E nodiscard -b 4096", "-E nodiscard,lazy_itable_init=0 -b 4096"),
            ("-E stride=8 -E nodiscard", "-E stride=8 -E nodiscard,lazy_itable_init=0 -b 4096"),
            ("-E lazy_itable_init=1", "-E lazy_itable_init=1 -b 4096"),
        ] {
            assert_eq!(without_reading(words(given)), words(expected), "{given}");
        }
    }
}
