//! Who is asking: the embedded Keystone.
