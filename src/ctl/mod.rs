//! `clusterctl`: one folder a noun, one file a verb.
