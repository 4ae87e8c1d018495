package activities

func transferTests() map[string]archiveTest { return nil }
