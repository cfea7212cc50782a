BEGIN TRANSACTION;
CREATE TABLE account (
	id VARCHAR(64) NOT NULL,
	name TEXT NOT NULL,
	kind VARCHAR(16) NOT NULL,
	email TEXT NOT NULL,
	email_verified BOOLEAN NOT NULL,
	proxy_username TEXT NOT NULL,
	currency VARCHAR(3) NOT NULL,
	trial_until_s BIGINT,
	prepayment VARCHAR(40) NOT NULL,
	status VARCHAR(16) NOT NULL,
	created_s BIGINT NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO "account" VALUES('acme','Acme','team','a@acme.example',1,'','USD',1669852800,'1999.00','active',1669116932);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE "api_key" (
	id VARCHAR(32) NOT NULL, 
	account VARCHAR(64), 
	scope VARCHAR(16) NOT NULL, 
	digest BLOB NOT NULL, 
	expires_s BIGINT, 
	revoked BOOLEAN NOT NULL, 
	created_s BIGINT NOT NULL, 
	same_body_once BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(account) REFERENCES account (id)
);
INSERT INTO "api_key" VALUES('0123456789ab','acme','read',X'D434F38A13D7B7CE6310C84BC83385EACC192EF7EF7BF694539D8E462D9CF7D9',NULL,0,1669116932,0);
CREATE TABLE change (
	number BIGINT NOT NULL
);
INSERT INTO "change" VALUES(1);
CREATE TABLE identity (
	identity VARCHAR(512) NOT NULL,
	zone INTEGER NOT NULL,
	PRIMARY KEY (identity),
	FOREIGN KEY(zone) REFERENCES zone (number)
);
INSERT INTO "identity" VALUES('u1',1);
INSERT INTO "identity" VALUES('*.acme.example',1);
CREATE TABLE "plan" (
	number INTEGER NOT NULL,
	account VARCHAR(64) NOT NULL,
	zone INTEGER,
	start_month VARCHAR(7) NOT NULL,
	kind VARCHAR(32) NOT NULL,
	fields TEXT NOT NULL,
	PRIMARY KEY (number),
	FOREIGN KEY(account) REFERENCES account (id),
	FOREIGN KEY(zone) REFERENCES zone (number)
);
INSERT INTO "plan" VALUES(1,'acme',1,'0000-00','per_gb','{"price": "0.42", "unit": "GB"}');
CREATE TABLE zone (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	account VARCHAR(64) NOT NULL,
	name VARCHAR(253) NOT NULL,
	network VARCHAR(16) NOT NULL,
	product VARCHAR(16) NOT NULL,
	side VARCHAR(16) NOT NULL,
	status VARCHAR(16) NOT NULL,
	created_s BIGINT NOT NULL,
	CONSTRAINT zone_account_name UNIQUE (account, name),
	FOREIGN KEY(account) REFERENCES account (id)
);
INSERT INTO "zone" VALUES(1,'acme','static','dc','sdc','target','suspended',1669116932);
CREATE INDEX ix_identity_zone ON identity (zone);
CREATE INDEX ix_plan_account ON "plan" (account);
CREATE UNIQUE INDEX plan_start ON "plan" (account, coalesce(zone, 0), start_month);
CREATE INDEX ix_api_key_account ON api_key (account);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('zone',1);
COMMIT;
