//! A simulator of households and their devices, which plays against a cluster and checks the answers.
