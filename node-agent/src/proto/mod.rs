//! Protobuf code, made of the `.proto` files beside it by `cargo xtask proto` and committed, so that
//! a build needs no protobuf compiler.

/// Istio's certificate service.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::excessive_nesting,
    reason = "generated code, committed as it came"
)]
pub mod istio_ca {
    include!("istio.v1.auth.rs");
}
