//! What only the embedded engine has: files, one process, an image in memory.

mod disk;
mod durability;
mod image;
mod merged;
mod opening;
mod purge;
mod recall_quality;
mod tampering;
mod vector_index;
