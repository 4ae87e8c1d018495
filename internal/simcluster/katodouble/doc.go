// Package katodouble is a test double of kato, the administration command of HP Helion ALS and Stackato. Its contract, and what of
// it is known from the real product and what is a proposal, is kato.md §8; texts marked [U] there are made here, in one place.
package katodouble
