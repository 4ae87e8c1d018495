// Package cloudcontroller is a double of the Cloud Controller (API v2) and the login (AOK) of an ALS or Stackato cluster: an http.Handler over a
// state in memory, served with TLS under a certificate of its own authority or plain.
//
// What it answers is what kato.md §4 and §6 have; where they are silent it answers as Cloud Foundry's controller of that time does. In maintenance mode
// every write is refused with HTTP 503 and code 150 but for the configuration and restage, and an unknown app is not found before that.
// Whether the mode is on may be asked of another part of a simulated cluster ([Options].Maintenance), so that kato and controller agree.
//
// Apps start and are staged at once, or take the time that StartTime and StageTime say; it passes by the clock, without a goroutine for each app. What goes wrong with one app
// is an [AppFault], met a number of times or always, and every write that was carried out is in its [Controller.AppRecord].
//
// Faults are methods: answers of another status, connections reset in the middle, slowness, tokens that are revoked, lists that change between two pages.
package cloudcontroller
