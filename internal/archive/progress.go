package archive

import "math/bits"

const (
	minPartSize   = 5 << 20 // S3's own limit for every part but the last
	smallPartSize = 8 << 20
	maxPartSize   = 5 << 30
)

// Progress is how far an upload, or a download to a node, came: small enough for a heartbeat (1.9 KiB as JSON with 10,000 parts) and enough for another process to go on.
// Which parts are really there with which checksum is asked of S3; losing the last state, or all of them, costs no part again.
type Progress struct {
	// UploadID of the multipart upload at S3, "" when none was begun.
	UploadID string `json:"upload_id,omitempty"`
	// Size of the source and of each part but the last, in bytes.
	Size     int64 `json:"size,omitempty"`
	PartSize int64 `json:"part_size,omitempty"`
	// SHA256 of the whole source, in hexadecimal.
	SHA256 string `json:"sha256,omitempty"`
	// Done has a bit for each part, from the lowest of the first byte, set when S3 has it with the right checksum.
	Done []byte `json:"done,omitempty"`
}

// Parts returns how many parts are done and how many there are.
func (p Progress) Parts() (done, all int) {
	for _, b := range p.Done {
		done += bits.OnesCount8(b)
	}
	return done, countParts(p.Size, p.PartSize)
}

// Bytes returns how much of the source is done, in bytes.
func (p Progress) Bytes() int64 {
	var n int64
	for number := 1; number <= countParts(p.Size, p.PartSize); number++ {
		if p.has(number) {
			n += partRange(p.Size, p.PartSize, number).Length
		}
	}
	return n
}

func (p Progress) has(number int) bool {
	return (number-1)/8 < len(p.Done) && p.Done[(number-1)/8]&(1<<((number-1)%8)) != 0
}

// choosePartSize returns the part size for a source: a 64th of it between 8 and 256 MiB, as each part costs requests, and a session where its source is on a node;
// 8 MiB for an encrypted one, of which parts are held in memory; in whole MiB, and as many as make 10,000 parts at most.
func choosePartSize(size int64, encrypted bool) int64 {
	const mib = 1 << 20
	wanted := int64(smallPartSize)
	if !encrypted {
		wanted = min(max(size/64, smallPartSize), 256*mib)
	}
	wanted = max(wanted, (size+maxParts-1)/maxParts)
	return (wanted + mib - 1) / mib * mib
}

func countParts(size, partSize int64) int {
	if size <= 0 || partSize <= 0 {
		return 0
	}
	return int((size-1)/partSize + 1)
}

func partRange(size, partSize int64, number int) Range {
	offset := int64(number-1) * partSize
	return Range{offset, min(partSize, size-offset)}
}
