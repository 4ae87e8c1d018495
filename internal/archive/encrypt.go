package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// CheckRecipients returns an error of KindBadInput when one is not a public key of age ("age1...") or of SSH ("ssh-ed25519 ...", "ssh-rsa ...").
func CheckRecipients(recipients []string) error {
	_, err := parseRecipients(recipients)
	return err
}

func parseRecipients(recipients []string) ([]age.Recipient, error) {
	var parsed []age.Recipient
	for i, text := range recipients {
		text = strings.TrimSpace(text)
		// What is not understood is not printed: it may be the secret half, given by mistake.
		if strings.HasPrefix(text, "AGE-SECRET-KEY-") || strings.Contains(text, "PRIVATE KEY") {
			return nil, badInput("recipient %d is a secret key: give the public key, and consider the secret one as known", i+1)
		}
		if strings.HasPrefix(text, "ssh-") {
			recipient, err := agessh.ParseRecipient(text)
			if err != nil {
				return nil, badInput("recipient %d is no ssh-ed25519 or ssh-rsa public key", i+1)
			}
			parsed = append(parsed, recipient)
			continue
		}
		some, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(some) != 1 {
			return nil, badInput("recipient %d is no public key of age (age1...) or SSH", i+1)
		}
		parsed = append(parsed, some[0])
	}
	return parsed, nil
}

// ParseIdentities reads secret keys: an age key file (lines "AGE-SECRET-KEY-..."), or one unencrypted SSH private key. No part of data is in an error.
func ParseIdentities(data []byte) ([]age.Identity, error) {
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		identity, err := agessh.ParseIdentity(data)
		if err != nil {
			return nil, badInput("the SSH private key cannot be used to decrypt: it must be ssh-ed25519 or ssh-rsa, without a passphrase")
		}
		return []age.Identity{identity}, nil
	}
	identities, err := age.ParseIdentities(bytes.NewReader(data))
	if err != nil {
		return nil, badInput("no age key file and no SSH private key")
	}
	return identities, nil
}

// encryptPart writes the age file of one part to out and returns the SHA-256 of what it read.
func encryptPart(out *bytes.Buffer, in io.Reader, recipients []age.Recipient) (Sum, error) {
	out.Reset()
	writer, err := age.Encrypt(out, recipients...)
	if err != nil {
		return Sum{}, err
	}
	hash := sha256.New()
	if _, err := io.Copy(writer, io.TeeReader(in, hash)); err != nil {
		return Sum{}, &sourceFailure{err}
	}
	return Sum(hash.Sum(nil)), writer.Close()
}

// decryptPart returns the plaintext of one age file.
func decryptPart(in io.Reader, number int, identities []age.Identity) (io.Reader, error) {
	plaintext, err := age.Decrypt(in, identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, failure(KindDecrypt, "part %d: none of the identities can decrypt it: it was encrypted to other recipients, see the manifest", number)
	}
	return plaintext, err
}

// ageOverhead is more than an age file is longer than its plaintext: header, nonce and 16 bytes for each 64 KiB.
func ageOverhead(partSize int64, recipients int) int {
	return int(partSize/4096) + 4096*(recipients+1)
}

// canonical returns recipients without comments or doubles, sorted, as they stand in a manifest.
func canonical(recipients []string) []string {
	var out []string
	for _, text := range recipients {
		fields := strings.Fields(text)
		if len(fields) > 1 && strings.HasPrefix(fields[0], "ssh-") {
			fields = fields[:2] // the comment of an SSH key names a person and a machine
		}
		if text = strings.Join(fields, " "); text != "" {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
