// Package archive keeps exports of clusters in S3.
//
// An archive is the folder PREFIX/CLUSTER/OPERATION with export.tgz and manifest.json, cluster and operation encoded as remote.EncodeID does. The
// manifest is written last and says what the object must be; only a folder in which both agree is an archive (List). Beside them there is upload.json while a
// transfer is under way, verified.json once somebody read the archive back, and rehearsed.json once it was imported into a scratch cluster.
//
// # Transfer
//
// Begin, Send and Complete move a Source to a multipart upload. Each part has its SHA-256 computed at the source, is compared with it while it passes, is sent
// under it as the signed x-amz-checksum-sha256 and payload hash, and counts when S3 has recorded the same. Whatever process goes on, with the last Progress
// or with none, asks S3 which parts it has: at most the parts in flight are sent again. A part that is not encrypted is a stream and is never held; an
// encrypted one is held whole while it is in flight, so that with Upload.Memory at its default 64 MiB two to seven parts are. Before the object is put together the
// source's size, time and whole SHA-256 are compared with those of the begin. With PresignParts another sender takes the place of Send.
//
// # Encryption
//
// Each part is an age file of its own over a fixed range of the export, and the object is these files one after the other; any worker can make any part anew.
// The manifest has offset and size of each. Whoever has no katoflow gets the export back with age alone, which exits with an error at a part that was changed:
//
//	awk '{ sub(",", "", $2) } $1 == "\"stored_offset\":" { o = $2 } $1 == "\"stored_size\":" && o != "" { print o, $2; o = "" }' manifest.json |
//	while read -r offset size; do
//	  tail -c "+$((offset + 1))" export.tgz | head -c "$size" | age -d -i key.txt || exit 1
//	done >plain.tgz
//	sha256sum plain.tgz    # the manifest's "sha256"
//
// # Rights
//
// On the bucket: s3:ListBucket, s3:ListBucketMultipartUploads (and s3:GetBucketObjectLockConfiguration with object lock). On PREFIX/*: s3:PutObject, s3:GetObject,
// s3:DeleteObject, s3:ListMultipartUploadParts, s3:AbortMultipartUpload (and s3:PutObjectRetention with object lock; kms:GenerateDataKey and
// kms:Decrypt with a KMS key). Without s3:ListBucket S3 answers "access denied" where it means "not found".
//
// # Services
//
// What was found by running against versitygw v1.8.0 (devstack) and differs from Amazon's documentation:
//
//   - It takes server-side encryption and storage class, stores in the clear and in STANDARD, and does not answer the encryption header. A configuration that
//     asks for encryption is therefore refused when the service does not answer that it encrypts. The storage class is not checked.
//   - Part checksums are as at Amazon: recorded per part, in ListParts and UploadPart's answer, BadDigest for a wrong one, and a part without one is refused in an
//     upload that was begun with SHA256 (HTTP 400 InvalidRequest). HEAD with checksum mode has the composite checksum with the number of parts; GetObjectAttributes
//     lists no parts, so that nothing here relies on it.
//   - Object lock works without versions: a plain DELETE of a locked object is refused (403), where Amazon only sets a delete marker. Delete asks for the lock
//     first and so behaves the same on both. In a bucket with versions Delete sets markers; the bucket's life cycle removes older versions.
//   - A bucket without object lock answers InvalidRequest to a lock header; an unknown access key is 404 XAdminUserNotFound instead of 403 InvalidAccessKeyId; a full
//     disk is QuotaExceeded with 403, or 507 InsufficientStorage. All are told apart by their codes.
//   - Of more than 1,000 multipart uploads it refuses the upload id marker that it gave itself (InvalidArgument). The listing then goes on by the key alone and may
//     miss further uploads of one key, which the next listing finds.
//   - Aborting an upload that is gone is no error there and NoSuchUpload at Amazon; both are taken as done.
//
// MinIO lists multipart uploads only for a whole key as prefix: Abort finds an operation's uploads there, Leftovers does not find those of dead ones; a life cycle
// rule (AbortIncompleteMultipartUpload) does. It is a good rule for every bucket.
package archive
