//! The file seam: the few file operations that the log needs, on a real disk or on one that lies.
