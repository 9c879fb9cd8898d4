BEGIN TRANSACTION;
CREATE TABLE drift (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  pinned TEXT NOT NULL,
  verdict TEXT NOT NULL,
  digest TEXT,
  media_type TEXT,
  size INTEGER,
  first_seen TEXT NOT NULL,
  checked_at TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, tag)
) STRICT, WITHOUT ROWID;
INSERT INTO "drift" VALUES('registry.example.com','team/app','v1','sha256:0165045906db65db1fa443f26bef41ada5172db4746cab8e00db3cf4cbea1af4','drifted','sha256:b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73','application/vnd.oci.image.index.v1+json',4,'2026-11-22T12:04:00.000000+00:00','2026-11-22T12:04:00.000000+00:00',X'6781BF9DB7496724EE7BB4BE9A7E65A8');
INSERT INTO "drift" VALUES('registry.example.com','team/app','v4','sha256:e4fe85e94bef30b5bb7db98e8fd7649e955e2c4d32394cfd60293b4b1699ad51','vanished',NULL,NULL,NULL,'2026-11-22T12:04:00.000000+00:00','2026-11-22T12:04:00.000000+00:00',X'E935EA122B95C56B4961D2F274D52D61');
CREATE TABLE followed (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  fetched_at TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, tag)
) STRICT, WITHOUT ROWID;
CREATE TABLE journal (
  serial INTEGER PRIMARY KEY,
  at TEXT NOT NULL,
  kind TEXT NOT NULL,
  registry TEXT,
  repository TEXT,
  tag TEXT,
  revision INTEGER, -- of the pin that this event made or removed; NULL for all other events
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  previous TEXT NOT NULL,
  body TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT;
INSERT INTO "journal" VALUES(1,'2026-11-22T12:00:00.000000+00:00','created',NULL,NULL,NULL,NULL,'iarproxy','','','{"schema":2,"store":"0d4a6a3e-store"}','5618a7c2c16e85ad9cbf01130b030769111f0785704aac17d3cb6eba17bc3b23');
INSERT INTO "journal" VALUES(2,'2026-11-22T12:00:00.000000+00:00','pinned','registry.example.com','team/app','v1',1,'iarproxy','','5618a7c2c16e85ad9cbf01130b030769111f0785704aac17d3cb6eba17bc3b23','{"descriptor":{"digest":"sha256:0165045906db65db1fa443f26bef41ada5172db4746cab8e00db3cf4cbea1af4","mediaType":"application/vnd.oci.image.index.v1+json","size":8},"previous":null,"source":"http://127.0.0.1/"}','dac92ea22845ff7fc03da6596ff8d79d51586c53c10399edf3031aff61189fdc');
INSERT INTO "journal" VALUES(3,'2026-11-22T12:01:00.000000+00:00','pinned','registry.example.com','team/app','v2',1,'iarproxy','','dac92ea22845ff7fc03da6596ff8d79d51586c53c10399edf3031aff61189fdc','{"descriptor":{"digest":"sha256:8df5c47f70248d1862253651e771e34f4d4dbca9c044c2f5b22eb664e1734702","mediaType":"application/vnd.oci.image.index.v1+json","size":8},"previous":null,"source":"http://127.0.0.1/"}','f519202a2055d27f07e91a7e3dd16fdc8d75e527803c9020dc93edf6ba457f02');
INSERT INTO "journal" VALUES(4,'2026-11-22T12:02:00.000000+00:00','pinned','registry.example.com','team/app','v3',1,'iarproxy','','f519202a2055d27f07e91a7e3dd16fdc8d75e527803c9020dc93edf6ba457f02','{"descriptor":{"digest":"sha256:150de2c06ed91a403c0ad1b7b2a0cc773a138838a22dd9df46fe5bb8ed95b314","mediaType":"application/vnd.oci.image.index.v1+json","size":8},"previous":null,"source":"http://127.0.0.1/"}','a8bbf36c43e23b53401e993350f1a01215fd7212dfcabfa0d63962800dd5ef4d');
INSERT INTO "journal" VALUES(5,'2026-11-22T12:03:00.000000+00:00','pinned','registry.example.com','team/app','v4',1,'iarproxy','','a8bbf36c43e23b53401e993350f1a01215fd7212dfcabfa0d63962800dd5ef4d','{"descriptor":{"digest":"sha256:e4fe85e94bef30b5bb7db98e8fd7649e955e2c4d32394cfd60293b4b1699ad51","mediaType":"application/vnd.oci.image.index.v1+json","size":8},"previous":null,"source":"http://127.0.0.1/"}','693ac90ac9dbfe71b153e452df0eee9004bd239a465310e6fa59aba95d52e368');
INSERT INTO "journal" VALUES(6,'2026-11-22T12:04:00.000000+00:00','repinned','registry.example.com','team/app','v2',2,'ann','a fix','693ac90ac9dbfe71b153e452df0eee9004bd239a465310e6fa59aba95d52e368','{"descriptor":{"digest":"sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4","mediaType":"application/vnd.oci.image.index.v1+json","size":6},"previous":"sha256:8df5c47f70248d1862253651e771e34f4d4dbca9c044c2f5b22eb664e1734702","source":"http://127.0.0.1/"}','f8984b58fc30d9e65a6d176a0bf8e1a940649f195a6beed15f62fc31d8242a91');
INSERT INTO "journal" VALUES(7,'2026-11-22T12:04:00.000000+00:00','removed','registry.example.com','team/app','v3',2,'ann','gone','f8984b58fc30d9e65a6d176a0bf8e1a940649f195a6beed15f62fc31d8242a91','{"descriptor":null,"previous":"sha256:150de2c06ed91a403c0ad1b7b2a0cc773a138838a22dd9df46fe5bb8ed95b314","source":""}','ccf1d088c519baa81e88312f4032d2096abb0b34e40ca9d5ac40026dca2e7823');
INSERT INTO "journal" VALUES(8,'2026-11-22T12:04:00.000000+00:00','drifted','registry.example.com','team/app','v1',NULL,'iarproxy','','ccf1d088c519baa81e88312f4032d2096abb0b34e40ca9d5ac40026dca2e7823','{"evidence":{"why":"moved"},"offered":{"digest":"sha256:b5c1fb2efc6d6b4674c2fdcc48ce01b43a3b7c03763c0c3355de0099ee0f8c73","mediaType":"application/vnd.oci.image.index.v1+json","size":4},"pinned":"sha256:0165045906db65db1fa443f26bef41ada5172db4746cab8e00db3cf4cbea1af4"}','5fb34ad30602de07349c04da4515a0286b7312f4738f1db2c32beae4e0f2b00a');
INSERT INTO "journal" VALUES(9,'2026-11-22T12:04:00.000000+00:00','vanished','registry.example.com','team/app','v4',NULL,'iarproxy','','5fb34ad30602de07349c04da4515a0286b7312f4738f1db2c32beae4e0f2b00a','{"evidence":{},"offered":null,"pinned":"sha256:e4fe85e94bef30b5bb7db98e8fd7649e955e2c4d32394cfd60293b4b1699ad51"}','65b1424ef78155ebadabf158fdae992d7f6d518ed2e859d643a25a9844b58921');
CREATE TABLE links (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  digest TEXT NOT NULL,
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, digest)
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL,
  checksum BLOB NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('store','0d4a6a3e-store',X'0BAC3815408C4A25732ED156368FF484');
CREATE TABLE pins (
  registry TEXT NOT NULL,
  repository TEXT NOT NULL,
  tag TEXT NOT NULL,
  revision INTEGER NOT NULL,
  digest TEXT, -- with media_type and size: NULL where a person removed the pin
  media_type TEXT,
  size INTEGER,
  pinned_at TEXT NOT NULL,
  source TEXT NOT NULL,
  previous_digest TEXT,
  reason TEXT NOT NULL,
  actor TEXT NOT NULL,
  serial INTEGER NOT NULL, -- of the journal row that made this one
  checksum BLOB NOT NULL,
  PRIMARY KEY (registry, repository, tag, revision)
) STRICT, WITHOUT ROWID;
INSERT INTO "pins" VALUES('registry.example.com','team/app','v1',1,'sha256:0165045906db65db1fa443f26bef41ada5172db4746cab8e00db3cf4cbea1af4','application/vnd.oci.image.index.v1+json',8,'2026-11-22T12:00:00.000000+00:00','http://127.0.0.1/',NULL,'','iarproxy',2,X'1D2D934A855971AB29BE83503F74FD34');
INSERT INTO "pins" VALUES('registry.example.com','team/app','v2',1,'sha256:8df5c47f70248d1862253651e771e34f4d4dbca9c044c2f5b22eb664e1734702','application/vnd.oci.image.index.v1+json',8,'2026-11-22T12:01:00.000000+00:00','http://127.0.0.1/',NULL,'','iarproxy',3,X'B6F0D2DD0B792A2BFABD37C0740916BA');
INSERT INTO "pins" VALUES('registry.example.com','team/app','v2',2,'sha256:16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4','application/vnd.oci.image.index.v1+json',6,'2026-11-22T12:04:00.000000+00:00','http://127.0.0.1/','sha256:8df5c47f70248d1862253651e771e34f4d4dbca9c044c2f5b22eb664e1734702','a fix','ann',6,X'2FA601C6F66707FFF6B271AC50FECBCF');
INSERT INTO "pins" VALUES('registry.example.com','team/app','v3',1,'sha256:150de2c06ed91a403c0ad1b7b2a0cc773a138838a22dd9df46fe5bb8ed95b314','application/vnd.oci.image.index.v1+json',8,'2026-11-22T12:02:00.000000+00:00','http://127.0.0.1/',NULL,'','iarproxy',4,X'CAAE8258A32C4029C29523BA6B499FD4');
INSERT INTO "pins" VALUES('registry.example.com','team/app','v3',2,NULL,NULL,NULL,'2026-11-22T12:04:00.000000+00:00','','sha256:150de2c06ed91a403c0ad1b7b2a0cc773a138838a22dd9df46fe5bb8ed95b314','gone','ann',7,X'259B1B7FBA5BA0D3EE29AE5A75299172');
INSERT INTO "pins" VALUES('registry.example.com','team/app','v4',1,'sha256:e4fe85e94bef30b5bb7db98e8fd7649e955e2c4d32394cfd60293b4b1699ad51','application/vnd.oci.image.index.v1+json',8,'2026-11-22T12:03:00.000000+00:00','http://127.0.0.1/',NULL,'','iarproxy',5,X'C81972B7A84901D9F66B69A3E57CE1BB');
CREATE TRIGGER pins_insert BEFORE INSERT ON pins
BEGIN
  SELECT RAISE(IGNORE) WHERE NEW.revision IS 1 AND EXISTS (
    SELECT 1 FROM pins WHERE registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag);
  SELECT RAISE(ABORT, 'a first pin has nothing before it') WHERE NEW.revision IS 1 AND NEW.previous_digest IS NOT NULL;
  SELECT RAISE(ABORT, 'a pin changes only by its next revision') WHERE NEW.revision IS NOT 1 AND NEW.revision IS NOT (
    SELECT max(revision) + 1 FROM pins
    WHERE registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag);
  SELECT RAISE(ABORT, 'a revision names the digest that it replaces')
    WHERE NEW.revision IS NOT 1 AND NEW.previous_digest IS NOT (
      SELECT digest FROM pins WHERE registry = NEW.registry AND repository = NEW.repository AND tag = NEW.tag
      ORDER BY revision DESC LIMIT 1);
  SELECT RAISE(ABORT, 'a revision needs a reason and an actor')
    WHERE NEW.revision IS NOT 1 AND (coalesce(trim(NEW.reason), '') = '' OR coalesce(trim(NEW.actor), '') = '');
END;
CREATE TRIGGER pins_update BEFORE UPDATE ON pins
BEGIN
  SELECT RAISE(ABORT, 'pins is append-only');
END;
CREATE TRIGGER pins_delete BEFORE DELETE ON pins
BEGIN
  SELECT RAISE(ABORT, 'pins is append-only');
END;
CREATE TRIGGER journal_insert BEFORE INSERT ON journal
BEGIN
  SELECT RAISE(ABORT, 'the journal only grows at its end')
    WHERE NEW.serial IS NOT (SELECT coalesce(max(serial), 0) + 1 FROM journal);
  SELECT RAISE(ABORT, 'a line names the hash of the line before')
    WHERE NEW.previous IS NOT coalesce((SELECT hash FROM journal ORDER BY serial DESC LIMIT 1), '');
END;
CREATE TRIGGER journal_update BEFORE UPDATE ON journal
BEGIN
  SELECT RAISE(ABORT, 'journal is append-only');
END;
CREATE TRIGGER journal_delete BEFORE DELETE ON journal
BEGIN
  SELECT RAISE(ABORT, 'journal is append-only');
END;
CREATE INDEX journal_by_reference ON journal (registry, repository, tag, serial);
CREATE UNIQUE INDEX journal_by_revision ON journal (registry, repository, tag, revision) WHERE revision IS NOT NULL;
CREATE INDEX drift_unsteady ON drift (registry, repository, tag) WHERE verdict <> 'steady';
COMMIT;
PRAGMA user_version = 2;
PRAGMA application_id = 1767993968;
