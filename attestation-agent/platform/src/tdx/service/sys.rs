//! The address of a vsock socket, which no library of ours knows.
//!
//! Implements `struct sockaddr_vm` of Linux's `include/uapi/linux/vm_sockets.h`.
#![allow(unsafe_code, reason = "a socket address is a promise about the kernel's view of our memory")]

use rustix::net::AddressFamily;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// A port of another machine or of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VsockAddress {
    /// Number of the machine; 2 is the host.
    pub(super) context: u32,
    /// Port.
    pub(super) port: u32,
}

/// `struct sockaddr_vm`.
#[repr(C)]
struct SocketAddress {
    family: u16,
    reserved: u16,
    port: u32,
    context: u32,
    flags: u8,
    zero: [u8; 3],
}

// SAFETY: `with_sockaddr` hands out a pointer to a structure of the kernel's layout that lives until `f` returns, and its
// length; all bytes of it are initialised, as it has no padding.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        let address = SocketAddress {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port: self.port,
            context: self.context,
            flags: 0,
            zero: [0; 3],
        };
        const LENGTH: SocketAddrLen = 16;
        const { assert!(size_of::<SocketAddress>() == 16) };
        f(std::ptr::from_ref(&address).cast(), LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_the_layout_of_the_header() {
        let address = VsockAddress { context: 2, port: 4050 };
        // SAFETY: the pointer is used before the closure returns, for the length that goes with it.
        let bytes = unsafe {
            address.with_sockaddr(|pointer, length| {
                let length = usize::try_from(length).unwrap();
                std::slice::from_raw_parts(pointer.cast::<u8>(), length).to_vec()
            })
        };
        assert_eq!(bytes, [40, 0, 0, 0, 0xD2, 0x0F, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
