BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE attachments (
	node TEXT NOT NULL, 
	canonical_id TEXT NOT NULL, 
	"plan" TEXT NOT NULL, 
	state TEXT NOT NULL, 
	since DATETIME NOT NULL, 
	error TEXT, 
	boot_id TEXT, 
	idle_boottime DOUBLE, 
	PRIMARY KEY (node, canonical_id)
);
INSERT INTO "attachments" VALUES('worker-1','cloud:disk-0','{"disk":{"id":{"provider":"prod","native":"zone-a/disk-0"},"canonical_id":"cloud:disk-0","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-14T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""},"node":{"name":"vm-1","location":"zone-a","native_id":"instances/1"},"access":"read-only","request_id":"uuid-0","slot":"7","is_present":false,"proof":""}','planned','2026-03-14 15:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',NULL);
INSERT INTO "attachments" VALUES('worker-1','cloud:disk-1','{"disk":{"id":{"provider":"prod","native":"zone-a/disk-1"},"canonical_id":"cloud:disk-1","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-13T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""},"node":{"name":"vm-1","location":"zone-a","native_id":"instances/1"},"access":"read-only","request_id":"uuid-1","slot":"7","is_present":false,"proof":""}','attaching','2026-03-14 15:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',12345.25);
INSERT INTO "attachments" VALUES('worker-1','cloud:disk-2','{"disk":{"id":{"provider":"prod","native":"zone-a/disk-2"},"canonical_id":"cloud:disk-2","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-12T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""},"node":{"name":"vm-1","location":"zone-a","native_id":"instances/1"},"access":"read-only","request_id":"uuid-2","slot":"7","is_present":false,"proof":"attached 2026-03-14T15:09:26.535897+00:00"}','attached','2026-03-14 15:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',NULL);
INSERT INTO "attachments" VALUES('worker-1','cloud:disk-3','{"disk":{"id":{"provider":"prod","native":"zone-a/disk-3"},"canonical_id":"cloud:disk-3","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-11T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""},"node":{"name":"vm-1","location":"zone-a","native_id":"instances/1"},"access":"read-only","request_id":"uuid-3","slot":"7","is_present":false,"proof":""}','detaching','2026-03-14 15:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',12345.25);
INSERT INTO "attachments" VALUES('worker-1','cloud:disk-4','{"disk":{"id":{"provider":"prod","native":"zone-a/disk-4"},"canonical_id":"cloud:disk-4","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-10T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""},"node":{"name":"vm-1","location":"zone-a","native_id":"instances/1"},"access":"read-only","request_id":"uuid-4","slot":"7","is_present":false,"proof":""}','stuck','2026-03-14 15:09:26.535897','{"code":"disk_in_use","title":"The disk is in use","detail":"Something has it open.","retriable":false,"cloud_code":null,"retry_after":null}','5e1ec7ed-0000-4000-8000-000000000001',NULL);
INSERT INTO "attachments" VALUES('worker-1','cloud:disk-5','{"disk":{"id":{"provider":"prod","native":"zone-a/disk-5"},"canonical_id":"cloud:disk-5","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-09T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""},"node":{"name":"vm-1","location":"zone-a","native_id":"instances/1"},"access":"read-only","request_id":"uuid-5","slot":"7","is_present":false,"proof":""}','foreign','2026-03-14 15:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',12345.25);
CREATE TABLE audit_events (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	node TEXT NOT NULL, 
	event TEXT NOT NULL, 
	disk_id TEXT NOT NULL, 
	export_id TEXT, 
	holder TEXT, 
	detail TEXT NOT NULL, provider TEXT, ordered_by TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "audit_events" VALUES(1,'2026-03-14 15:09:26.535897','worker-1','export.claimed','prod:zone-a/disk-0','019a1b2c3d4e5f6071829300','alice ünd bob','read-only',NULL,NULL);
INSERT INTO "audit_events" VALUES(2,'2026-03-14 15:09:26.535897','worker-1','export.claimed','prod:zone-a/disk-1','019a1b2c3d4e5f6071829301','alice ünd bob','scratch',NULL,NULL);
INSERT INTO "audit_events" VALUES(3,'2026-03-14 15:09:26.535897','worker-1','export.claimed','prod:zone-a/disk-2','019a1b2c3d4e5f6071829302','alice ünd bob','read-write',NULL,NULL);
INSERT INTO "audit_events" VALUES(4,'2026-03-14 15:09:26.535897','worker-1','export.ready','prod:zone-a/disk-2','019a1b2c3d4e5f6071829302','alice ünd bob','',NULL,NULL);
INSERT INTO "audit_events" VALUES(5,'2026-03-14 15:09:26.535897','worker-1','export.claimed','prod:zone-a/disk-3','019a1b2c3d4e5f6071829303','alice ünd bob','read-only',NULL,NULL);
INSERT INTO "audit_events" VALUES(6,'2026-03-14 15:09:26.535897','worker-1','export.ready','prod:zone-a/disk-3','019a1b2c3d4e5f6071829303','alice ünd bob','',NULL,NULL);
INSERT INTO "audit_events" VALUES(7,'2026-03-14 15:09:26.535897','worker-1','export.closing','prod:zone-a/disk-3','019a1b2c3d4e5f6071829303','alice ünd bob','released',NULL,NULL);
INSERT INTO "audit_events" VALUES(8,'2026-03-14 15:09:26.535897','worker-1','export.claimed','prod:zone-a/disk-4','019a1b2c3d4e5f6071829304','alice ünd bob','scratch',NULL,NULL);
INSERT INTO "audit_events" VALUES(9,'2026-03-14 15:09:26.535897','worker-1','export.ready','prod:zone-a/disk-4','019a1b2c3d4e5f6071829304','alice ünd bob','',NULL,NULL);
INSERT INTO "audit_events" VALUES(10,'2026-03-14 15:09:26.535897','worker-1','export.closing','prod:zone-a/disk-4','019a1b2c3d4e5f6071829304','alice ünd bob','released',NULL,NULL);
INSERT INTO "audit_events" VALUES(11,'2026-03-14 15:09:26.535897','worker-1','export.closed','prod:zone-a/disk-4','019a1b2c3d4e5f6071829304','alice ünd bob','',NULL,NULL);
INSERT INTO "audit_events" VALUES(12,'2026-03-14 15:09:26.535897','worker-1','export.claimed','prod:zone-a/disk-5','019a1b2c3d4e5f6071829305','alice ünd bob','read-write',NULL,NULL);
INSERT INTO "audit_events" VALUES(13,'2026-03-14 15:09:26.535897','worker-1','export.ready','prod:zone-a/disk-5','019a1b2c3d4e5f6071829305','alice ünd bob','',NULL,NULL);
INSERT INTO "audit_events" VALUES(14,'2026-03-14 15:09:26.535897','worker-1','export.failed','prod:zone-a/disk-5','019a1b2c3d4e5f6071829305','alice ünd bob','Later.',NULL,NULL);
INSERT INTO "audit_events" VALUES(15,'2026-03-14 15:09:26.535897','worker-1','attachment.planned','prod:zone-a/disk-0',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(16,'2026-03-14 15:09:26.535897','worker-1','attachment.planned','prod:zone-a/disk-1',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(17,'2026-03-14 15:09:26.535897','worker-1','attachment.attaching','prod:zone-a/disk-1',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(18,'2026-03-14 15:09:26.535897','worker-1','attachment.planned','prod:zone-a/disk-2',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(19,'2026-03-14 15:09:26.535897','worker-1','attachment.attached','prod:zone-a/disk-2',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(20,'2026-03-14 15:09:26.535897','worker-1','attachment.planned','prod:zone-a/disk-3',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(21,'2026-03-14 15:09:26.535897','worker-1','attachment.detaching','prod:zone-a/disk-3',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(22,'2026-03-14 15:09:26.535897','worker-1','attachment.planned','prod:zone-a/disk-4',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(23,'2026-03-14 15:09:26.535897','worker-1','attachment.stuck','prod:zone-a/disk-4',NULL,NULL,'Something has it open.',NULL,NULL);
INSERT INTO "audit_events" VALUES(24,'2026-03-14 15:09:26.535897','worker-1','attachment.planned','prod:zone-a/disk-5',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(25,'2026-03-14 15:09:26.535897','worker-1','attachment.foreign','prod:zone-a/disk-5',NULL,NULL,'7',NULL,NULL);
INSERT INTO "audit_events" VALUES(26,'2026-03-14 15:09:26.535897','worker-1','export.force-released','prod:zone-a/disk-3','019a1b2c3d4e5f6071829303','alice ünd bob','the cellar is flooded',NULL,'carol');
INSERT INTO "audit_events" VALUES(27,'2026-03-14 15:09:26.535897','worker-1','provider.paused','',NULL,NULL,'the cellar is flooded','prod','carol');
INSERT INTO "audit_events" VALUES(28,'2026-03-14 15:09:26.535897','worker-1','node.draining','',NULL,NULL,'the cellar is flooded',NULL,'carol');
CREATE TABLE claims (
	export_id TEXT NOT NULL, 
	canonical_id TEXT NOT NULL, 
	is_exclusive BOOLEAN NOT NULL, 
	PRIMARY KEY (export_id, canonical_id), 
	FOREIGN KEY(export_id) REFERENCES exports (id) ON DELETE CASCADE
);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829300','cloud:base',0);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829300','cloud:disk-0',0);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829301','cloud:base',0);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829301','cloud:disk-1',0);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829302','cloud:base',0);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829302','cloud:disk-2',1);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829303','cloud:base',0);
INSERT INTO "claims" VALUES('019a1b2c3d4e5f6071829303','cloud:disk-3',0);
CREATE TABLE exports (
	id TEXT NOT NULL, 
	node TEXT NOT NULL, 
	disk_id TEXT NOT NULL, 
	canonical_id TEXT NOT NULL, 
	disk TEXT NOT NULL, 
	access TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	note TEXT NOT NULL, 
	state TEXT NOT NULL, 
	name TEXT NOT NULL, 
	port INTEGER, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	over_at DATETIME, 
	boot_id TEXT NOT NULL, 
	expires_boottime DOUBLE NOT NULL, 
	unready_boottime DOUBLE NOT NULL, 
	closing_boottime DOUBLE, 
	size_bytes BIGINT, 
	format TEXT, 
	server TEXT, 
	error TEXT, is_forced BOOLEAN DEFAULT 0 NOT NULL, over_boottime DOUBLE, 
	PRIMARY KEY (id), 
	UNIQUE (name)
);
INSERT INTO "exports" VALUES('019a1b2c3d4e5f6071829300','worker-1','prod:zone-a/disk-0','cloud:disk-0','{"id":{"provider":"prod","native":"zone-a/disk-0"},"canonical_id":"cloud:disk-0","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-14T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""}','read-only','alice ünd bob','first line
second line, with ''quotes'' and a % sign','pending','00000000000000000000000000000000',NULL,'2026-03-14 15:09:26.535897','2026-03-14 16:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',15945.25,12345.25,NULL,NULL,NULL,NULL,NULL,0,NULL);
INSERT INTO "exports" VALUES('019a1b2c3d4e5f6071829301','worker-1','prod:zone-a/disk-1','cloud:disk-1','{"id":{"provider":"prod","native":"zone-a/disk-1"},"canonical_id":"cloud:disk-1","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-13T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""}','scratch','alice ünd bob','first line
second line, with ''quotes'' and a % sign','attaching','00000000000000000000000000000001',10901,'2026-03-14 15:09:26.535897','2026-03-14 16:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',15945.25,12345.25,NULL,NULL,NULL,NULL,'{"code":"throttled","title":"The cloud asks for fewer requests","detail":"Later.","retriable":true,"cloud_code":"RequestLimitExceeded","retry_after":2.5}',0,NULL);
INSERT INTO "exports" VALUES('019a1b2c3d4e5f6071829302','worker-1','prod:zone-a/disk-2','cloud:disk-2','{"id":{"provider":"prod","native":"zone-a/disk-2"},"canonical_id":"cloud:disk-2","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-12T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""}','read-write','alice ünd bob','first line
second line, with ''quotes'' and a % sign','ready','00000000000000000000000000000002',10902,'2026-03-14 15:09:26.535897','2026-03-14 16:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',15945.25,12345.25,NULL,2199023255552,'qcow2','{"boot_id":"5e1ec7ed-0000-4000-8000-000000000001","pid":4002,"start_time":5,"listener_inode":6}',NULL,0,NULL);
INSERT INTO "exports" VALUES('019a1b2c3d4e5f6071829303','worker-1','prod:zone-a/disk-3','cloud:disk-3','{"id":{"provider":"prod","native":"zone-a/disk-3"},"canonical_id":"cloud:disk-3","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-11T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""}','read-only','alice ünd bob','first line
second line, with ''quotes'' and a % sign','closing','00000000000000000000000000000003',10903,'2026-03-14 15:09:26.535897','2026-03-14 16:09:26.535897',NULL,'5e1ec7ed-0000-4000-8000-000000000001',15945.25,12345.25,12345.25,2199023255552,'qcow2','{"boot_id":"5e1ec7ed-0000-4000-8000-000000000001","pid":4003,"start_time":5,"listener_inode":6}',NULL,1,NULL);
INSERT INTO "exports" VALUES('019a1b2c3d4e5f6071829304','worker-1','prod:zone-a/disk-4','cloud:disk-4','{"id":{"provider":"prod","native":"zone-a/disk-4"},"canonical_id":"cloud:disk-4","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-10T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""}','scratch','alice ünd bob','first line
second line, with ''quotes'' and a % sign','closed','00000000000000000000000000000004',10904,'2026-03-14 15:09:26.535897','2026-03-14 16:09:26.535897','2026-03-14 15:09:26.535897','5e1ec7ed-0000-4000-8000-000000000001',15945.25,12345.25,12345.25,2199023255552,'qcow2',NULL,NULL,0,12345.25);
INSERT INTO "exports" VALUES('019a1b2c3d4e5f6071829305','worker-1','prod:zone-a/disk-5','cloud:disk-5','{"id":{"provider":"prod","native":"zone-a/disk-5"},"canonical_id":"cloud:disk-5","size_bytes":2199023255552,"format":"raw","location":"zone-a","description":"","labels":{"case":"7","größe":"groß"},"access":["read-only","scratch","read-write"],"held_by":["vm-9"],"backing":["cloud:base"],"actual_size_bytes":null,"created_at":"2026-03-09T15:09:26.535897Z","logical_sector_bytes":null,"incarnation":""}','read-write','alice ünd bob','first line
second line, with ''quotes'' and a % sign','failed','00000000000000000000000000000005',10905,'2026-03-14 15:09:26.535897','2026-03-14 16:09:26.535897','2026-03-14 15:09:26.535897','5e1ec7ed-0000-4000-8000-000000000001',15945.25,12345.25,NULL,2199023255552,'qcow2',NULL,'{"code":"throttled","title":"The cloud asks for fewer requests","detail":"Later.","retriable":true,"cloud_code":"RequestLimitExceeded","retry_after":2.5}',0,12345.25);
CREATE TABLE idempotency_keys (
	"key" TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	export_id TEXT NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(export_id) REFERENCES exports (id) ON DELETE CASCADE
);
INSERT INTO "idempotency_keys" VALUES('a key of the client''s','0000000000000000000000000000000000000000000000000000000000000000','019a1b2c3d4e5f6071829300');
CREATE TABLE nodes (
	name TEXT NOT NULL, 
	boot_id TEXT NOT NULL, 
	started_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, drain TEXT, identity TEXT, machine TEXT, session TEXT, alive_until DOUBLE, 
	PRIMARY KEY (name)
);
INSERT INTO "nodes" VALUES('worker-1','5e1ec7ed-0000-4000-8000-000000000001','2026-03-14 15:09:26.535897','2026-03-14 15:09:26.535897','{"since":"2026-03-14T15:09:26.535897Z","by":"carol","reason":"the cellar is flooded"}','an identity','a machine','a session',12375.25);
CREATE TABLE pauses (
	provider TEXT NOT NULL, 
	pause TEXT NOT NULL, 
	PRIMARY KEY (provider)
);
INSERT INTO "pauses" VALUES('prod','{"since":"2026-03-14T15:09:26.535897Z","by":"carol","reason":"the cellar is flooded"}');
CREATE INDEX audit_by_export ON audit_events (export_id);
CREATE INDEX exports_by_disk ON exports (node, canonical_id);
CREATE INDEX exports_by_state ON exports (state);
CREATE INDEX claims_by_disk ON claims (canonical_id);
COMMIT;
