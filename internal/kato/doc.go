// Package kato builds kato command lines and reads what kato prints. It does no I/O.
//
// kato's own texts are documented only in part (kato.md §9), so every reader here is defensive: colours, stray lines before and after the answer,
// both spellings of a word and both machine formats are understood, and what cannot be understood is an error, never a guess. Commands are built
// with long options only, because short ones changed their meaning between versions (kato.md §0.1).
package kato
