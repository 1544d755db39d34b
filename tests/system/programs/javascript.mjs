// What users of AWS's SDK for JavaScript do: CRC32 by default on everything, in a trailer for streams; uploads in parts;
// paginators, batches of deletes, presigned URLs.
//
// Arguments: a bucket to make, a directory to keep.  NODE_CLIENTS is where the packages are.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { createReadStream, readdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join, relative } from "node:path";
import { Readable } from "node:stream";

const require = createRequire(`${process.env.NODE_CLIENTS}/`);
const {
  S3Client, CopyObjectCommand, CreateBucketCommand, DeleteObjectsCommand, GetObjectCommand, GetObjectAttributesCommand,
  HeadObjectCommand, PutObjectCommand, paginateListObjectsV2, paginateListBuckets, waitUntilObjectExists,
} = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");

const MIB = 1 << 20;
const [Bucket, tree] = process.argv.slice(2);
const s3 = new S3Client({ forcePathStyle: true, maxAttempts: 1 });

async function refused(promise, name) {
  await assert.rejects(promise, (error) => (assert.equal(error.name, name), true));
}

async function read(Key, more = {}) {
  const got = await s3.send(new GetObjectCommand({ Bucket, Key, ...more }));
  return Buffer.from(await got.Body.transformToByteArray());
}

await s3.send(new CreateBucketCommand({ Bucket }));
const buckets = [];
for await (const page of paginateListBuckets({ client: s3, pageSize: 1 }, { Prefix: Bucket })) {
  buckets.push(...(page.Buckets ?? []).map((item) => item.Name));
}
assert.deepEqual(buckets, [Bucket]);

// Files as streams with their length: signed chunks are out of fashion, the body goes with its CRC32 in a trailer.
const paths = readdirSync(tree, { recursive: true }).map((name) => join(tree, name)).filter((p) => statSync(p).isFile());
for (const path of paths) {
  const Key = `tree/${relative(tree, path)}`;
  const put = await s3.send(new PutObjectCommand({
    Bucket, Key, Body: createReadStream(path), ContentLength: statSync(path).size, Metadata: { colour: "blue" },
  }));
  assert.ok(put.ChecksumCRC32, "a default checksum");
  const head = await s3.send(new HeadObjectCommand({ Bucket, Key, ChecksumMode: "ENABLED" }));
  assert.equal(head.ChecksumCRC32, put.ChecksumCRC32);
  assert.equal(head.Metadata.colour, "blue");
  assert.deepEqual(await read(Key), readFileSync(path));
}

// Every algorithm, over whole bodies and streams.
const body = randomBytes(3 * MIB + 1);
for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "SHA1", "SHA256"]) {
  const name = `Checksum${ChecksumAlgorithm}`;
  const whole = await s3.send(new PutObjectCommand({ Bucket, Key: `whole-${name}`, Body: body, ChecksumAlgorithm }));
  const stream = await s3.send(new PutObjectCommand({
    Bucket, Key: `stream-${name}`, Body: Readable.from([body]), ContentLength: body.length, ChecksumAlgorithm,
  }));
  assert.equal(whole[name], stream[name]);
  assert.deepEqual(await read(`stream-${name}`), body);
}
await refused(s3.send(new PutObjectCommand({ Bucket, Key: "bad", Body: body, ChecksumCRC32: "AAAAAA==" })), "BadDigest");
await refused(s3.send(new HeadObjectCommand({ Bucket, Key: "bad" })), "NotFound");

// Parts, from a stream whose length nobody knows.
const large = randomBytes(17 * MIB + 5);
const upload = new Upload({
  client: s3, partSize: 5 * MIB, queueSize: 3,
  params: { Bucket, Key: "large", Body: Readable.from([large.subarray(0, 9 * MIB), large.subarray(9 * MIB)]) },
});
const done = await upload.done();
assert.match(done.ETag, /-4"$/);
assert.deepEqual(await read("large"), large);
assert.deepEqual(await read("large", { Range: "bytes=5242870-5242890" }), large.subarray(5242870, 5242891));
const attributes = await s3.send(new GetObjectAttributesCommand({
  Bucket, Key: "large", ObjectAttributes: ["ETag", "Checksum", "ObjectParts", "ObjectSize"],
}));
assert.deepEqual([attributes.ObjectSize, attributes.ObjectParts.TotalPartsCount], [large.length, 4]);
assert.ok(attributes.Checksum.ChecksumCRC32);

const copied = await s3.send(new CopyObjectCommand({ Bucket, Key: "copy", CopySource: `${Bucket}/large` }));
assert.equal(copied.CopyObjectResult.ETag, done.ETag);
await waitUntilObjectExists({ client: s3, maxWaitTime: 10 }, { Bucket, Key: "copy" });

await s3.send(new PutObjectCommand({ Bucket, Key: "once", Body: "1", IfNoneMatch: "*" }));
await refused(s3.send(new PutObjectCommand({ Bucket, Key: "once", Body: "2", IfNoneMatch: "*" })), "PreconditionFailed");
await refused(s3.send(new GetObjectCommand({ Bucket, Key: "absent" })), "NoSuchKey");

const putUrl = await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key: "presigned" }), { expiresIn: 60 });
assert.equal((await fetch(putUrl, { method: "PUT", body: "presigned" })).status, 200);
const getUrl = await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: "presigned" }), { expiresIn: 60 });
assert.equal(await (await fetch(getUrl)).text(), "presigned");

const keys = [];
for await (const page of paginateListObjectsV2({ client: s3, pageSize: 4 }, { Bucket, Prefix: "tree/" })) {
  keys.push(...page.Contents.map((item) => item.Key));
}
assert.equal(keys.length, paths.length);
const deleted = await s3.send(new DeleteObjectsCommand({
  Bucket, Delete: { Objects: ["copy", "once", "absent"].map((Key) => ({ Key })) },
}));
assert.equal(deleted.Deleted.length, 3);
assert.equal(deleted.Errors, undefined);
s3.destroy();
