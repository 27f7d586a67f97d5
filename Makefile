# Entry points for people and for CI. Every target works on a fresh machine with git, make and a Rust toolchain.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Recorded evidence for tests; where it is missing, the tests that need it say so and the rest runs.
export VECTORS_DIR ?= $(if $(wildcard ../shared/vectors),$(abspath ../shared/vectors),)

# The folder that gets the binaries itself, as in the existing stack.
DESTDIR ?= /usr/local/bin
# Where man pages and completions go: the folder laid out as /usr/share; none: they are not installed.
SHAREDIR ?=
# What `make package` packs: release, or debug, which is built faster.
PROFILE ?= release
DAEMONS := attestation-agent confidential-data-hub api-server-rest
BINARIES := $(DAEMONS) cdh-storage guestctl trustee-attester initrd-unlock coco_keyprovider

# The variables by which the existing stack chooses a build. One build serves every platform and both kinds of RPC,
# so these only have to be accepted.
TEE_PLATFORM ?=
ATTESTER ?=
ENABLE_KBS ?= true
KMS_PROVIDER ?=
RPC ?=
ttrpc ?=
# Unset means this machine's architecture and the C library of the toolchain's own target (gnu on most). Another pair
# needs that Rust target and a C compiler for it.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
ARCH ?= $(firstword $(subst -, ,$(HOST)))
LIBC ?= $(lastword $(subst -, ,$(HOST)))
RUST_ARCH := $(patsubst ppc64le,powerpc64le,$(ARCH))
# cdh-storage makes volumes where libcryptsetup and libclang are installed (libcryptsetup-dev, libclang-dev); LUKS= builds without.
# That library is this machine's, for its own C library.
LUKS ?= $(if $(filter musl,$(LIBC)),,$(if $(and $(shell pkg-config --exists libcryptsetup 2>/dev/null && echo yes),$(LIBCLANG)),--features cdh-storage/luks))
# Where the bindings to it are made by: an own one is named as clang's bindings for Rust have it, by LIBCLANG_PATH.
LIBCLANG = $(or $(LIBCLANG_PATH),$(shell find /usr/lib/llvm-*/lib /usr/lib64 -maxdepth 1 -name 'libclang[.-]*' ! -name '*cpp*' -print -quit 2>/dev/null))
# Whoever wants no volumes says so; whoever lacks what they take is told.
WITHOUT_VOLUMES = $(if $(LUKS)$(filter command environment,$(origin LUKS)),,without volumes: install libcryptsetup-dev and libclang-dev (cryptsetup-devel and clang-devel on RHEL), or say LUKS=)
# Rust has no musl for these two.
RUST_LIBC := $(if $(filter s390x powerpc64le,$(RUST_ARCH)),gnu,$(LIBC))
TARGET := $(RUST_ARCH)-unknown-linux-$(RUST_LIBC)
RELEASE := target/$(TARGET)/release

# What `--version` says of the source; the rest of it is fixed too, so that two builds of it have the same bytes: no path of
# this machine goes into a binary.
SOURCE_COMMIT ?= $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
CARGO_FOLDER := $(abspath $(or $(CARGO_HOME),$(HOME)/.cargo))
FIXED := SOURCE_COMMIT="$(SOURCE_COMMIT)" \
  RUSTFLAGS="$$RUSTFLAGS --remap-path-prefix=$(CURDIR)=/source --remap-path-prefix=$(CARGO_FOLDER)=/cargo" \
  CFLAGS="$$CFLAGS -ffile-prefix-map=$(CURDIR)=/source -ffile-prefix-map=$(CARGO_FOLDER)=/cargo"

# Where `make install-units`, `install-image` and `install-extension` find the root of the system that they install into.
ROOT ?=
# A folder of binaries that are built already: `install` and the images then take these.
PREBUILT ?=

# What `make up` uses.
KBS_URL ?=
KBS_CERT ?=
TEE ?= snp

# What `make fuzz` runs, and for how many seconds; and the seconds of `make fuzz-smoke` for each target.
TARGET_NAME ?= snp_report
TIME ?= 60
TIME_EACH ?= 3

# What `make long-run` asks for.
REQUESTS ?= 100000

.PHONY: FORCE help setup setup-test build install install-units install-image install-extension install-initramfs manual package with-volumes programs release-folder repro demo up test lint unit deny advisories fuzz fuzz-smoke bench long-run clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Install what building, demo and up need (as root; else print the command)
	@.ci/setup

setup-test: ## Install what tests, fuzzing and measurements need besides
	@.ci/setup test

build: $(addprefix $(RELEASE)/,$(BINARIES)) ## Build the release binaries

# The daemons that load libraries at run time are dynamic, the others static: they run on any image.
$(RELEASE)/attestation-agent $(RELEASE)/confidential-data-hub $(RELEASE)/cdh-storage $(RELEASE)/coco_keyprovider: FORCE
	$(FIXED) cargo build --release --locked --target $(TARGET) --bin $(@F) $(if $(filter cdh-storage,$(@F)),$(LUKS))

$(RELEASE)/api-server-rest $(RELEASE)/guestctl $(RELEASE)/trustee-attester $(RELEASE)/initrd-unlock: FORCE
	$(FIXED) cargo rustc --release --locked --target $(TARGET) -p $(@F) --bin $(@F) -- -C target-feature=+crt-static
	@! readelf -lW $@ | grep -q INTERP || { echo "$@ is not static" >&2; exit 1; }

# As it is installed, but built fast: tests boot it.
target/debug/static/initrd-unlock: FORCE
	mkdir -p $(@D)
	cargo rustc --locked --quiet -p $(@F) --bin $(@F) -- -C target-feature=+crt-static --emit link=$(abspath $@)

FORCE:

install: $(if $(PREBUILT),,build) $(if $(SHAREDIR),manual) ## Install the binaries into DESTDIR (the folder itself), man pages and completions into SHAREDIR= if given
	install -d $(DESTDIR)
	set -e; for b in $(BINARIES); do install -m 0755 $(or $(PREBUILT),$(RELEASE))/$$b $(DESTDIR)/$$b; done
	ln -sf guestctl $(DESTDIR)/secret
	# kata's common manifest starts the agent by this name where there is an NVIDIA GPU.
	ln -sf attestation-agent $(DESTDIR)/attestation-agent-nv
	$(if $(SHAREDIR),install -d $(SHAREDIR) && cp -r target/share/. $(SHAREDIR)/)
	@$(if $(PREBUILT)$(filter musl,$(LIBC)),,$(if $(WITHOUT_VOLUMES),echo "note: cdh-storage was built $(WITHOUT_VOLUMES)" >&2))

manual: ## Write man pages and completions of bash, zsh and fish below target/share
	rm -rf target/share
	cargo build --locked --workspace $(LUKS) --bin manual
	target/debug/manual target/share

package: with-volumes $(if $(filter debug,$(PROFILE)),programs,build) manual ## Make .deb and .rpm with bills of material and checksums: target/package
	systemd/packages/package $(if $(filter debug,$(PROFILE)),target/debug,$(RELEASE)) target/share target/package

# The packages say that they open volumes, and depend on the library; LUKS= on the command line packs them without.
with-volumes:
	@$(if $(WITHOUT_VOLUMES),echo "cdh-storage would be packed $(WITHOUT_VOLUMES)" >&2; exit 2)

# For scripts: where `build` puts the programs.
release-folder:
	@echo $(RELEASE)

programs:
	cargo build --locked --workspace $(LUKS) --bins

repro: ## Build the release twice, in two folders, and compare the bytes; then pack both and compare the packages
	systemd/packages/reproduce

install-units: ## Install units, presets, the group and the folders of the sockets below ROOT= (an image's root; none: this machine)
	@! grep -qs '^ExecStart=/usr/bin/' $(ROOT)/usr/lib/systemd/system/attestation-agent.service || { \
	  echo "$(ROOT)/usr/lib/systemd/system/attestation-agent.service is a package's; remove the package confidential-guest first" >&2; exit 1; }
	install -d $(ROOT)/usr/lib/systemd/system $(ROOT)/usr/lib/systemd/system-preset $(ROOT)/usr/lib/sysusers.d $(ROOT)/usr/lib/tmpfiles.d
	install -m 0644 systemd/*.service systemd/*.socket $(ROOT)/usr/lib/systemd/system
	install -m 0644 systemd/system-preset/*.preset $(ROOT)/usr/lib/systemd/system-preset
	install -m 0644 systemd/sysusers.d/*.conf $(ROOT)/usr/lib/sysusers.d
	install -m 0644 systemd/tmpfiles.d/*.conf $(ROOT)/usr/lib/tmpfiles.d

install-initramfs: ## Install what opens volumes in an initramfs, for initramfs-tools and dracut, below ROOT=
	install -D -m 0755 -t $(ROOT)/usr/share/initramfs-tools/hooks systemd/initramfs-tools/hooks/confidential-unlock
	install -D -m 0755 -t $(ROOT)/usr/share/initramfs-tools/scripts/local-top systemd/initramfs-tools/scripts/local-top/confidential-unlock
	install -D -m 0755 -t $(ROOT)/usr/lib/dracut/modules.d/90confidential-unlock systemd/dracut/confidential-unlock/module-setup.sh
	install -D -m 0644 -t $(ROOT)/usr/lib/dracut/modules.d/90confidential-unlock $(addprefix systemd/dracut/confidential-unlock/,confidential-unlock.service no-shell.service)

# What a pod VM image and an extension image have of the binaries.
IMAGE_BINARIES := $(DAEMONS) cdh-storage guestctl
# What an extension image has besides, of this machine.
MKFS ?= $(shell PATH=$$PATH:/usr/sbin:/sbin command -v mkfs.ext4)
PEER_POD := systemd/peer-pod

install-image: $(if $(PREBUILT),,build) ## Put the daemons into the tree of a peer-pod VM image, ROOT=, in place of the present guest components
	@[ -n "$(ROOT)" ] || { echo "ROOT= has to name the tree of the image" >&2; exit 2; }
	install -d $(ROOT)/etc/systemd/system/multi-user.target.wants $(ROOT)/etc/systemd/system/sockets.target.wants $(ROOT)/usr/local/bin \
	  $(addprefix $(ROOT)/usr/lib/,systemd/system systemd/system-preset sysusers.d tmpfiles.d)
	set -e; for b in $(IMAGE_BINARIES); do install -m 0755 $(or $(PREBUILT),$(RELEASE))/$$b $(ROOT)/usr/local/bin/$$b; done
	# The units of the present guest components lie in /etc, where they would hide ours.
	set -e; for d in $(DAEMONS); do rm -f $(ROOT)/etc/systemd/system/$$d.service $(ROOT)/etc/systemd/system/$$d.path \
	  $(ROOT)/etc/systemd/system/multi-user.target.wants/$$d.service; done
	install -m 0644 $(addprefix systemd/,$(addsuffix .service,$(DAEMONS)) confidential-data-hub.socket) systemd/cdh-storage-*.service \
	  systemd/cdh-storage-*.socket $(PEER_POD)/*.path $(PEER_POD)/*.socket $(ROOT)/usr/lib/systemd/system
	set -e; for d in $(PEER_POD)/*.d; do install -D -m 0644 -t $(ROOT)/usr/lib/systemd/system/$${d##*/} $$d/*.conf; done
	install -m 0644 $(PEER_POD)/system-preset/*.preset $(ROOT)/usr/lib/systemd/system-preset
	install -m 0644 systemd/sysusers.d/*.conf $(ROOT)/usr/lib/sysusers.d
	install -m 0644 systemd/tmpfiles.d/*.conf $(ROOT)/usr/lib/tmpfiles.d
	install -m 0644 $(PEER_POD)/ocicrypt_config.json $(ROOT)/etc/ocicrypt_config.json
	set -e; for d in $(DAEMONS); do ln -sf /usr/lib/systemd/system/$$d.path $(ROOT)/etc/systemd/system/multi-user.target.wants/$$d.path; done
	set -e; for m in mount unpack; do ln -sf /usr/lib/systemd/system/cdh-storage-$$m.socket $(ROOT)/etc/systemd/system/sockets.target.wants; done

install-extension: $(if $(PREBUILT),,build) ## Put the daemons and their manifest into the tree of an extension image of kata, ROOT=
	@[ -n "$(ROOT)" ] || { echo "ROOT= has to name the tree of the extension" >&2; exit 2; }
	install -d $(ROOT)/usr/local/bin $(ROOT)/etc/kata-extensions
	set -e; for b in $(IMAGE_BINARIES); do install -m 0755 $(or $(PREBUILT),$(RELEASE))/$$b $(ROOT)/usr/local/bin/$$b; done
	ln -sf attestation-agent $(ROOT)/usr/local/bin/attestation-agent-nv
	install -d $(ROOT)/usr/local/lib $(ROOT)/usr/sbin
	# What cdh-storage is linked to and a guest need not have; the C library is the guest's own. Who opens volumes makes them too.
	systemd/kata/bring-libraries $(or $(PREBUILT),$(RELEASE))/cdh-storage $(ROOT)/usr/local/lib
	set -e; if ls $(ROOT)/usr/local/lib/libcryptsetup.so.* >/dev/null 2>&1; then \
	  [ -n "$(MKFS)" ] || { echo "mkfs.ext4 has to be installed here (e2fsprogs), for the extension to have it" >&2; exit 1; }; \
	  install -m 0755 $(MKFS) $(ROOT)/usr/sbin/mkfs.ext4; systemd/kata/bring-libraries $(MKFS) $(ROOT)/usr/local/lib; \
	  else echo "note: this cdh-storage opens no volumes, so that libcryptsetup and mkfs.ext4 are left out" >&2; fi
	install -m 0644 systemd/kata/components.toml $(ROOT)/etc/kata-extensions/components.toml
	install -m 0644 $(PEER_POD)/ocicrypt_config.json $(ROOT)/etc/ocicrypt_config.json
	# Verity images may not change: systemd must not want to write an identity.
	[ -e $(ROOT)/etc/machine-id ] || install -m 0444 /dev/null $(ROOT)/etc/machine-id

demo: setup ## Watch a secret being released, bad machines being denied, and images being pulled or refused
	cargo build --locked --workspace $(LUKS) --bins
	target/debug/stack demo

up: setup ## The same stack in the foreground. KBS_URL=, KBS_CERT=, TEE=snp|tdx|az-snp-vtpm|az-tdx-vtpm|cca|tpm|sample|host
	cargo build --locked --workspace $(LUKS) --bins
	target/debug/stack up $(if $(KBS_URL),--kbs-url $(KBS_URL)) $(if $(KBS_CERT),--kbs-cert $(KBS_CERT)) --tee $(TEE)

test: setup-test lint deny unit fuzz-smoke ## Everything CI checks

lint: ## Formatting, clippy and rustdoc without a warning
	cargo fmt --all --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace $(LUKS) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --lib --quiet

unit: ## Unit, property, vector and scenario tests
	cargo build --locked --workspace $(LUKS) --bins
	rm -f target/skipped-tests
	SKIPPED_TESTS=$(CURDIR)/target/skipped-tests cargo nextest run --locked --workspace $(LUKS)
	cargo test --locked --workspace $(LUKS) --doc --quiet
	@if [ -e target/skipped-tests ]; then sort target/skipped-tests; \
	  echo "$$(wc -l <target/skipped-tests) tests were skipped on this machine"; \
	  if [ -n "$$CI" ]; then echo "CI has to run them all"; exit 1; fi; fi

deny: ## Licences, bans and sources of all dependencies (offline)
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources

advisories: ## Known vulnerabilities of all dependencies (needs the advisory database)
	cargo deny check advisories

fuzz: setup-test ## Run one fuzz target: TARGET_NAME=snp_report TIME=60 (seconds)
	tests/fuzz/fuzz run $(TARGET_NAME) $(TIME)

fuzz-smoke: setup-test ## Run every fuzz target for TIME_EACH=3 seconds from its seeds
	tests/fuzz/fuzz smoke $(TIME_EACH)

bench: setup-test ## Side-by-side measurements; table on the terminal, target/bench/summary.json
	cargo build --release --locked --workspace $(LUKS) --bins
	target/release/bench

long-run: setup-test ## Ask REQUESTS= times while key broker, token and agent come and go; prints memory, errors, latency
	cargo build --release --locked --workspace $(LUKS) --bins
	target/release/long-run --requests $(REQUESTS)

clean: ## Remove everything that was built
	cargo clean
	cargo clean --manifest-path tests/fuzz/Cargo.toml
