//! The process-wide TLS provider.

/// Makes ring the provider of every rustls configuration of the process. Repeating it does nothing.
///
/// Must run before the first TLS configuration is built: with two providers linked and none chosen,
/// rustls panics at the first handshake.
pub fn install() {
    // An error says that a provider is installed already, which is what is wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
}
