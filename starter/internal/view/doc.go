// Package view turns operation reports into text for a terminal: the live frame of `watch`, the lines it prints where there is no
// terminal, and the tables of `show` and `list`. It does no I/O and reads no clock; every text that came from a node, an inventory or
// a person is escaped here before it is shown.
package view
