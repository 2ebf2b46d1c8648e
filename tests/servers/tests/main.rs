//! What the servers do, driven with a plain HTTP client.

mod real;
