//! One pure function per format, from a [`crate::symbolize::Profile`] to bytes.
