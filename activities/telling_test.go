package activities

import "testing"

func TestTellingLine_OfAFailedRun_IsTheErrorAndNotWhatFollows(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "one\ntwo\n\n": "two",
		"E: Unable to locate package x\nLog ended\n": "E: Unable to locate package x",
		"Setting up a ...\ndpkg: error processing package a (--configure):\n installed a package post-installation script subprocess returned error exit status 1\nErrors were encountered\nExtracting content from /var/log\n": "dpkg: error processing package a (--configure): installed a package post-installation script subprocess returned error exit status 1",
		"dpkg: error: dpkg frontend lock is locked": "dpkg: error: dpkg frontend lock is locked",
	} {
		if got := tellingLine(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}
