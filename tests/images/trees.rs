//! Trees of real images are those that `umoci unpack` makes, file by file: a Debian root, and two languages in layers.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use cc_tests::{container::Tree, image::Layer, process::command, stack::skip};
use rustix::fs::XattrFlags;

use crate::{Workshop, archive, hub::Hub, run, tree};

/// The packages of which an image is built, which `tests/images/packages` fetches.
fn packages(name: &str) -> Option<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image-packages").join(name);
    let Ok(entries) = fs::read_dir(folder) else {
        skip("needs the packages that tests/images/packages fetches");
        return None;
    };
    let mut packages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    packages.sort();
    Some(packages)
}

impl Workshop {
    /// A workshop on a machine with what these tests compare with.
    fn with_umoci() -> Option<Self> {
        if command("umoci").arg("--version").output().is_err() || skopeo().is_none() {
            skip("needs umoci, and the tree that tests/trees/make makes, with skopeo");
            return None;
        }
        Self::open()
    }

    /// Pulls the image `tag`, compressed with gzip and with Zstandard, into a folder and into a bundle, and compares with what umoci makes
    /// of it. Of a bundle it is compared what the kernel shows of the overlay.
    fn compare(&self, tag: &str) {
        self.push(tag);
        let bundle = self.path("bundle");
        let mut umoci = command("umoci");
        umoci.arg("unpack").arg("--image").arg(format!("{}:{tag}", self.layout.folder().display()));
        run(umoci.arg(&bundle));
        let theirs = tree::of(&bundle.join("rootfs"));
        let zstd = format!("{tag}-zstd");
        let mut copy = skopeo().unwrap();
        copy.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ]);
        copy.args(["--dest-compress-format=zstd", "--dest-compress-level=1", "--dest-compress"]);
        run(copy.args([tag, &zstd].map(|tag| format!("docker://{}", self.name(tag)))));
        for tag in [tag, &zstd] {
            let target = self.path("ours");
            self.pulled(tag, &target);
            tree::assert_equal(&tree::of(&target), &theirs, tag);
            fs::remove_dir_all(target).unwrap();
        }
        let hub = Hub::start(self, "");
        for tag in [tag, &zstd] {
            let out = hub.pull(self, tag, tag);
            assert!(out.status.success(), "{tag}: {}", String::from_utf8_lossy(&out.stderr));
            tree::assert_equal(&tree::of(&hub.seen(tag, "")), &theirs, &format!("the bundle of {tag}"));
        }
    }
}

/// The `skopeo` of the Debian 13 tree, run by the tree's own loader: Debian 12's does not compress to Zstandard on demand.
fn skopeo() -> Option<std::process::Command> {
    let tree = Tree::Trixie.folder();
    let inside =
        |folder: PathBuf| fs::read_dir(folder).ok().map(|all| all.map(|entry| entry.unwrap().path()));
    let libraries = inside(tree.join("usr/lib"))?.find(|path| path.join("libc.so.6").exists())?;
    let is_loader = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("ld-linux");
    let loader = inside(libraries.clone())?.find(is_loader)?;
    let program = tree.join("usr/bin/skopeo");
    if !program.exists() {
        return None;
    }
    let mut skopeo = command(loader);
    skopeo.arg("--library-path").arg(libraries).arg(program);
    Some(skopeo)
}

#[test]
fn a_debian_root() {
    let Some(shop) = Workshop::with_umoci() else { return };
    let layer = shop.layout.gzip(&archive(&Tree::Bookworm.folder())).unwrap();
    shop.layout.image("debian", &[layer]).unwrap();
    shop.compare("debian");
}

/// A layer for each package, which is what its own archive says.
fn layers(shop: &Workshop, packages: &[PathBuf]) -> Vec<Layer> {
    let layer = |package: &PathBuf| {
        shop.layout.gzip(&run(command("dpkg-deb").arg("--fsys-tarfile").arg(package))).unwrap()
    };
    packages.iter().map(layer).collect()
}

#[test]
fn perl_in_a_layer_for_each_package_and_files_of_every_kind() {
    let (Some(packages), Some(shop)) = (packages("perl"), Workshop::with_umoci()) else { return };
    let mut layers = layers(&shop, &packages);
    assert!(layers.len() >= 20, "{}", layers.len());
    let folder = shop.path("kinds");
    make_kinds(&folder);
    layers.push(shop.layout.gzip(&archive(&folder)).unwrap());
    // The same archive in the other format of today.
    let mut gnu = command("tar");
    gnu.args(["--create", "--format=gnu", "--numeric-owner", "--transform=s,^./srv,./gnu,", "--directory"]);
    layers.push(shop.layout.gzip(&run(gnu.arg(&folder).arg("."))).unwrap());
    shop.layout.image("perl", &layers).unwrap();
    shop.compare("perl");
}

/// Set-user-id files, capabilities, attributes, holes, long names, hard and symbolic links, pipes, times with fractions.
fn make_kinds(root: &Path) {
    let srv = root.join("srv");
    let long = "a-name-that-is-long-".repeat(12);
    let deep = srv.join(&long).join(&long).join("and/deep");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join(&long), "long").unwrap();
    for (name, mode, owner) in
        [("su", 0o4755, 0), ("sg", 0o2755, 5), ("secret", 0o600, 4_000_000), ("none", 0, 65534)]
    {
        fs::write(srv.join(name), name).unwrap();
        std::os::unix::fs::chown(srv.join(name), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(srv.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::create_dir(srv.join("shared")).unwrap();
    fs::set_permissions(srv.join("shared"), PermissionsExt::from_mode(0o3777)).unwrap();
    // cap_net_bind_service, permitted and effective, in the form of revision 2 (include/uapi/linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    fs::write(srv.join("server"), "a program").unwrap();
    set(&srv.join("server"), "security.capability", &capability);
    set(&srv.join("server"), "user.note", b"a = b\n\0c");
    set(&srv.join("shared"), "user.of-a-directory", b"1");
    let sparse = fs::File::create(srv.join("sparse")).unwrap();
    for piece in 0..50u64 {
        sparse.write_all_at(&[7; 4096], piece * 100_000).unwrap();
    }
    sparse.set_len(64 << 20).unwrap();
    fs::File::create(srv.join("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::create_dir_all(srv.join("x/y")).unwrap();
    fs::hard_link(srv.join("server"), srv.join("x/y/server")).unwrap();
    symlink(&long, srv.join("x/long")).unwrap();
    symlink("/nowhere/at/all", srv.join("x/dangling")).unwrap();
    fs::hard_link(srv.join("x/dangling"), srv.join("x/y/dangling")).unwrap();
    fs::write(srv.join(OsStr::from_bytes(b"not \xff utf-8\n")), "bytes").unwrap();
    fs::write(srv.join("gr\u{fc}n \u{2713}"), "text").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, srv.join("pipe"), rustix::fs::FileType::Fifo, 0o620.into(), 0)
        .unwrap();
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn python_in_layers_that_delete_replace_and_link() {
    let (Some(packages), Some(shop)) = (packages("python3"), Workshop::with_umoci()) else { return };
    let layers = layers(&shop, &packages);
    assert!(layers.len() >= 20, "{}", layers.len());
    shop.layout.image("base", &layers).unwrap();

    // Two changes, as umoci writes them.
    let image = format!("{}:base", shop.layout.folder().display());
    let bundle = shop.path("changes");
    run(command("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    let root = bundle.join("rootfs");
    let library = fs::read_dir(root.join("usr/lib")).unwrap().map(|entry| entry.unwrap().path());
    let mut library = library.filter(|path| path.join("os.py").exists());
    let library = library.next().unwrap();
    fs::remove_dir_all(library.join("email")).unwrap();
    fs::remove_file(library.join("this.py")).unwrap();
    fs::remove_dir_all(library.join("json")).unwrap();
    fs::write(library.join("json"), "a file where a directory was").unwrap();
    fs::remove_file(library.join("os.py")).unwrap();
    fs::create_dir_all(library.join("os.py/inside")).unwrap();
    fs::write(library.join("antigravity.py"), "replaced").unwrap();
    fs::set_permissions(library.join("ast.py"), PermissionsExt::from_mode(0o444)).unwrap();
    let refresh = ["repack", "--refresh-bundle", "--image"];
    run(command("umoci").args(refresh).arg(&image).arg(&bundle));
    fs::create_dir_all(root.join("srv/one")).unwrap();
    fs::create_dir_all(root.join("srv/two")).unwrap();
    fs::write(root.join("srv/one/file"), "one file").unwrap();
    fs::hard_link(root.join("srv/one/file"), root.join("srv/two/again")).unwrap();
    fs::hard_link(library.join("calendar.py"), root.join("srv/two/of-a-lower-layer")).unwrap();
    set(&root.join("srv/one"), "user.note", b"new");
    fs::create_dir(library.join("email")).unwrap();
    fs::write(library.join("email/new"), "back again").unwrap();
    fs::remove_file(library.join("json")).unwrap();
    symlink("ctypes", library.join("json")).unwrap();
    run(command("umoci").args(refresh).arg(&image).arg(&bundle));

    // And one that umoci reads but does not write: a directory that hides what is below it.
    let folder = shop.path("opaque");
    let hidden = folder.join(library.strip_prefix(&root).unwrap()).join("unittest");
    fs::create_dir_all(&hidden).unwrap();
    fs::write(hidden.join(".wh..wh..opq"), "").unwrap();
    fs::write(hidden.join("only"), "what is left").unwrap();
    fs::write(folder.join("archive.tar"), archive(&folder)).unwrap();
    let add = ["raw", "add-layer", "--image", &image];
    run(command("umoci").args(add).arg(folder.join("archive.tar")));
    shop.layout.reread().unwrap();
    shop.compare("base");
}
